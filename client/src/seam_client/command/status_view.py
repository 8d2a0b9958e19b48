"""How a status looks to people: at a terminal in blocks of a replica each, in a pipe as a line for each replica."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text as Shown

from seam_client.answers import ModelLoad, Replica, ReplicaState, Status
from seam_client.command.rates import CAUSES, HISTORY, ModelRates, ReplicaRates, shares_of
from seam_client.command.showing import duration, harmless

_STATES = {ReplicaState.READY: ("●", "green"), ReplicaState.DRAINING: ("◐", "yellow")}
_GONE = ("○", "red")
_FAINT = "bright_black"
_CAUSE_STYLES = ("green", "cyan", "yellow", "magenta", _FAINT)
_WIDE = 100  # columns from which on the recent past is drawn too
_NUMBERS = {"running": 7, "waiting": 7, "queued": 7, "wait": 7, "step": 7, "cache": 8}
_RATES = {"tokens/s": 8, "req/s": 6}
_TOTALS = {"tokens out": 11, "tokens in": 11, "requests": 8}
_LEVELS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class StatusView:
    """Counts since the start without `rates`. `gone` says why the server does not answer; the rest is then old."""

    status: Status
    target: str
    rates: Mapping[str, ReplicaRates] | None = None
    gone: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _WIDE and self.rates is not None
        name_width = max((len(load.model) for replica in self.status.replicas for load in replica.models), default=0)
        yield self._head()
        headed = False
        for replica in self.status.replicas:
            rates = None if self.rates is None else self.rates.get(replica.address)
            yield Shown()
            yield from _replica(replica, rates, 30 if options.max_width >= _WIDE else 14)
            if replica.models:
                yield self._models(replica, rates, wide, name_width, headed=not headed)
                headed = True
        when = "since the start" if self.rates is None else "since the look before"
        yield Shown()
        yield Shown(f"queued, cache (free): tokens · wait: of a request sent now · bar: time {when}", _FAINT)

    def _head(self) -> Shown:
        if self.gone:
            return Shown(harmless(f"{self.target} does not answer: {self.gone}\nBelow is what was last seen."), "red")
        status = self.status
        told = [f"Seam {status.version}".strip(), f"at {self.target}", f"up {duration(status.uptime_seconds)}"]
        ready = sum(replica.state is ReplicaState.READY for replica in status.replicas)
        told.append(f"{ready} of {len(status.replicas)} replicas ready")
        return Shown(harmless(" · ".join(told)))

    def _models(
        self, replica: Replica, rates: ReplicaRates | None, wide: bool, name_width: int, *, headed: bool
    ) -> RenderableType:
        table = Table(box=None, show_header=headed, pad_edge=False, padding=(0, 1, 0, 0), header_style=_FAINT)
        table.add_column("", min_width=name_width + 2)
        for name, width in (_NUMBERS | (_TOTALS if self.rates is None else _RATES)).items():
            table.add_column(name, justify="right", min_width=width)
        if wide:
            table.add_column("", min_width=HISTORY)
        for load in replica.models:
            told = rates.models.get(load.model) if rates else None
            cells = _total_cells(load) if self.rates is None else _rate_cells(load, told)
            past = [Shown(sparkline(told.history) if told else "", "green", no_wrap=True)] if wide else []
            table.add_row(*_load_cells(load), *cells, *past)
        return table


def status_lines(status: Status, rates: Mapping[str, ReplicaRates]) -> Iterator[str]:
    """One line a replica, for pipes and logs."""
    for replica in status.replicas:
        told = [f"{replica.address} {replica.state.value} live={replica.live_request_count}"]
        known = rates.get(replica.address)
        told += [_model_line(load, known.models.get(load.model) if known else None) for load in replica.models]
        if known and known.shares:
            parts = zip(CAUSES, known.shares, strict=True)
            told.append("time " + " ".join(f"{cause.replace(' ', '-')}={share:.0%}" for cause, share in parts))
        yield harmless(" | ".join(told))


def sparkline(values: tuple[float, ...]) -> str:
    """A line of the recent past, scaled to its highest; empty where nothing happened."""
    top = max(values, default=0.0)
    return "".join(_LEVELS[round(value / top * 7)] for value in values) if top else ""


def _model_line(load: ModelLoad, rates: ModelRates | None) -> str:
    told = (
        f"{load.model} running={load.running_sequence_count} waiting={load.waiting_sequence_count} "
        f"queued={load.queued_token_count} wait={load.predicted_wait_seconds:.3f}s"
    )
    if rates is None:
        return told
    return f"{told} out={rates.output_tokens:.1f}tok/s in={rates.input_tokens:.1f}tok/s requests={rates.requests:.1f}/s"


def _replica(replica: Replica, rates: ReplicaRates | None, bar_width: int) -> Iterator[RenderableType]:
    sign, style = _STATES.get(replica.state, _GONE)
    head = Shown(no_wrap=True)
    head.append(f"{sign} ", style).append(harmless(replica.address), "bold").append("  ")
    head.append(replica.state.value, style)
    head.append(f", {replica.live_request_count:,} live" if replica.live_request_count else "")
    yield head
    shares = rates.shares if rates else shares_of(replica.device_time)
    if shares:
        yield _bar(shares, bar_width)


def _bar(shares: tuple[float, ...], width: int) -> Shown:
    """Where the device's time went, drawn and told."""
    bar, drawn, reached = Shown("  ", no_wrap=True), 0, 0.0
    for share, style in zip(shares, _CAUSE_STYLES, strict=True):
        reached += share
        cells = round(reached * width) - drawn
        drawn += cells
        bar.append("━" * cells, style)
    for cause, share, style in zip(CAUSES, shares, _CAUSE_STYLES, strict=True):
        if share >= 0.005:
            bar.append(f"  {cause} {share:.0%}", style)
    return bar


def _load_cells(load: ModelLoad) -> tuple[RenderableType, ...]:
    return (
        Shown(f"  {harmless(load.model)}"),
        _count(load.running_sequence_count),
        _waiting(load),
        _count(load.queued_token_count),
        duration(load.predicted_wait_seconds) if load.predicted_wait_seconds else _none(),
        duration(load.step_seconds) if load.step_seconds else _none(),
        _count(load.free_cache_token_count),
    )


def _waiting(load: ModelLoad) -> Shown:
    """With its priorities where not all is of the usual one: interactive, normal, batch."""
    count, waiting = _count(load.waiting_sequence_count), load.waiting
    if load.waiting_sequence_count and (waiting.interactive or waiting.batch):
        count.append(f" {waiting.interactive:,}↑{waiting.normal:,}·{waiting.batch:,}↓", _FAINT)
    return count


def _rate_cells(load: ModelLoad, rates: ModelRates | None) -> tuple[RenderableType, ...]:
    if rates is None:
        return (_none(), _none())
    return (_rate(rates.output_tokens if load.output_token_count else rates.input_tokens), _rate(rates.requests))


def _total_cells(load: ModelLoad) -> tuple[RenderableType, ...]:
    return (_count(load.output_token_count), _count(load.input_token_count), _count(load.finished_request_count))


def _count(number: int) -> Shown:
    return Shown(f"{number:,}") if number else _none()


def _rate(per_second: float) -> Shown:
    if per_second < 0.05:
        return _none()
    return Shown(f"{per_second:,.1f}" if per_second < 100 else f"{per_second:,.0f}", "bold")


def _none() -> Shown:
    return Shown("·", _FAINT)
