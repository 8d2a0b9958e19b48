"""Summaries of a sweep as a picture, over the offered rate. Needs matplotlib (extra `load`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seam_client.load.summary import Percentiles, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"p50": "#2a9d8f", "p95": "#e9a03b", "p99": "#d1495b"}


def plot(summaries: Sequence[Summary], file: Path, title: str) -> None:
    """PNG, SVG or PDF by the file's ending. Raises ModuleNotFoundError, OSError, ValueError for another ending."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    rates = [summary.rate for summary in summaries]
    ends = [summary.end_to_end for summary in summaries]
    for name, colour in _COLOURS.items():
        above.plot(rates, [_read(end, name) for end in ends], "o-", color=colour, label=f"end to end {name}")
    if any(summary.first_token for summary in summaries):
        firsts = [_read(summary.first_token, "p99") for summary in summaries]
        above.plot(rates, firsts, "s--", color="#3d5a80", label="first token p99")
    refusals = [_read(summary.refused[0].latency if summary.refused else None, "p99") for summary in summaries]
    if any(value == value for value in refusals):
        above.plot(rates, refusals, "x:", color="#777777", label="refusal p99")
    above.set(ylabel="seconds", yscale="log")
    above.legend(frameon=False, fontsize=8, ncols=2)
    _rates_below(below, summaries, rates)
    figure.suptitle(title, fontsize=11)
    figure.savefig(file, dpi=130)


def _rates_below(axes: "Axes", summaries: Sequence[Summary], rates: Sequence[float]) -> None:
    drawn = {
        "good": ([s.goodput for s in summaries], "#2a9d8f"),
        "answered": ([s.succeeded / s.seconds for s in summaries], "#8ab6d6"),
        "refused": ([s.refused_count / s.seconds for s in summaries], "#777777"),
        "failed or not sent": ([(s.error_count + s.not_sent) / s.seconds for s in summaries], "#d1495b"),
    }
    for name, (values, colour) in drawn.items():
        axes.plot(rates, values, "o-", color=colour, label=name)
    axes.plot(rates, rates, ":", color="#bbbbbb", label="offered")
    axes.set(xlabel="offered requests a second", ylabel="requests a second", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8, ncols=2)


def _read(found: Percentiles | None, name: str) -> float:
    return float("nan") if found is None else float(getattr(found, name))
