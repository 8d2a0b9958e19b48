"""How the figures of a load look to people."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text as Shown

from seam_client.command.showing import duration
from seam_client.load.summary import Failures, Percentiles, Summary

_FAINT = "bright_black"
_WORDS = ("latency", "not answered")


def summaries_view(summaries: Sequence[Summary]) -> RenderableType:
    """Rates, latencies, and what did not work, over the offered rates."""
    parts: list[RenderableType] = [_rates(summaries), _latencies(summaries)]
    failed = [(summary, failures) for summary in summaries for failures in (*summary.refused, *summary.errors)]
    if failed:
        parts.append(_failures(failed))
    parts += [_client(summary) for summary in summaries]
    return Group(*parts)


def _rates(summaries: Sequence[Summary]) -> Table:
    table = _table(
        "requests a second", "offered", "sent", "answered", "good", "good %", "refused", "failed", "not sent"
    )
    table.add_column("tokens/s", justify="right")
    for one in summaries:
        good_style = "green" if one.good_share >= 0.99 else "yellow" if one.good_share >= 0.9 else "red"
        per_second = [one.sent, one.succeeded, one.good]
        table.add_row(
            Shown(f"{one.rate:,.3g}", "bold"),
            *(f"{count / one.seconds:,.3g}" for count in per_second),
            Shown(f"{one.good_share:.1%}", good_style),
            *(_bad(count / one.seconds) for count in (one.refused_count, one.error_count, one.not_sent)),
            f"{one.output_tokens_per_second or one.input_tokens_per_second:,.0f}",
        )
    return table


def _latencies(summaries: Sequence[Summary]) -> Table:
    table = _table("req/s", "latency", "p50", "p90", "p95", "p99", "max")
    for one in summaries:
        named = {
            "end to end": one.end_to_end,
            "first token": one.first_token,
            "per output token": one.per_output_token,
            "between texts": one.between_texts,
        }
        for name, found in named.items():
            if found is not None:
                table.add_row(f"{one.rate:,.3g}", name, *_cells(found))
    return table


def _failures(failed: Sequence[tuple[Summary, Failures]]) -> Table:
    table = _table("req/s", "not answered", "count", "RetryInfo", "p50", "p99", "max")
    for summary, failures in failed:
        name = Shown(failures.reason or failures.code, "" if failures in summary.refused else "red")
        found = failures.latency
        latency = [duration(value) for value in (found.p50, found.p99, found.max)] if found else [""] * 3
        told = f"{failures.with_retry_info / failures.count:.0%}"
        table.add_row(f"{summary.rate:,.3g}", name, f"{failures.count:,}", told, *latency)
    return table


def _client(summary: Summary) -> Shown:
    client = summary.client
    lag = duration(client.send_lag.p99) if client.send_lag else "nothing"
    said = f"at {summary.rate:,.3g}/s this client used {client.cpu:.0%} of a core and sent {lag} late (p99)"
    if client.saturated:
        return Shown(f"{said}: it is the bottleneck itself; give it more --workers or another machine", "red")
    return Shown(said, _FAINT)


def _cells(found: Percentiles) -> tuple[str, ...]:
    return tuple(duration(value) for value in (found.p50, found.p90, found.p95, found.p99, found.max))


def _bad(per_second: float) -> Shown:
    return Shown(f"{per_second:,.3g}", "yellow") if per_second else Shown("·", _FAINT)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(name, justify="left" if name in _WORDS else "right", no_wrap=True)
    return table
