"""`seam load`: open-loop load on a server, and what came of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from seam_client.command import load_view, scripting
from seam_client.command.asking import failures_told, takes_flags
from seam_client.command.pointing import Flags, UsageError, encryption, pointed
from seam_client.load import plotting
from seam_client.load.schedule import (
    Arrivals,
    Kind,
    Pattern,
    Shot,
    drawn,
    lengths_of,
    mix_of,
    rates_of,
    traced,
)
from seam_client.load.sending import Asked
from seam_client.load.shooting import Rules
from seam_client.load.summary import Slo, Summary, summary_of
from seam_client.load.workers import Aim, run

_Value = TypeVar("_Value")
_WHAT, _HOW, _TOLD = "What is asked", "How it is sent", "What is told"


@dataclass(frozen=True, slots=True)
class _Step:
    """One schedule of a sweep."""

    rate: float
    seconds: float
    shots: list[Shot]


@takes_flags
def load(
    flags: Flags,
    rate: Annotated[
        str, typer.Option(metavar="R", rich_help_panel=_HOW, help="A second: 20, or a sweep 5,10,20 or 5:50:5.")
    ] = "1",
    duration: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, rich_help_panel=_HOW, help="Measured, at each rate.")
    ] = 10.0,
    warm_up: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, rich_help_panel=_HOW, help="Sent before, not counted.")
    ] = 2.0,
    arrivals: Annotated[Arrivals, typer.Option(rich_help_panel=_HOW, help="How they are spaced.")] = Arrivals.POISSON,
    max_in_flight: Annotated[
        int, typer.Option(metavar="N", min=1, rich_help_panel=_HOW, help="What is due beyond is counted, never sent.")
    ] = 1000,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", rich_help_panel=_HOW, help="Of each request, sent with it.")
    ] = None,
    drain: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, rich_help_panel=_HOW, help="For answers after the last one.")
    ] = 30.0,
    workers: Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_HOW, help="Processes that send.")] = 1,
    seed: Annotated[int, typer.Option(metavar="N", rich_help_panel=_HOW, help="Same seed, same schedule.")] = 0,
    http: Annotated[
        str, typer.Option(metavar="URL", rich_help_panel=_HOW, help="OpenAI's HTTP there, in place of gRPC.")
    ] = "",
    kind: Annotated[
        str, typer.Option(metavar="MIX", rich_help_panel=_WHAT, help="chat, predict, embed, score; chat=3,embed=1.")
    ] = "chat",
    model: Annotated[
        list[str] | None, typer.Option(metavar="KIND=NAME", rich_help_panel=_WHAT, help="May be repeated.")
    ] = None,
    prompt_chars: Annotated[
        str, typer.Option(metavar="N|DIST", rich_help_panel=_WHAT, help="lognormal:200:0.8, uniform:10:500, ...")
    ] = "lognormal:200:0.6",
    output_tokens: Annotated[
        str, typer.Option(metavar="N|DIST", rich_help_panel=_WHAT, help="Answers are that long, as far as may be.")
    ] = "64",
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=_WHAT, help="CSV or JSON lines of arrivals, in place of a rate."),
    ] = None,
    first_token_slo: Annotated[
        float | None, typer.Option(metavar="SECONDS", rich_help_panel=_TOLD, help="Later is not good.")
    ] = None,
    slo: Annotated[
        float | None, typer.Option(metavar="SECONDS", rich_help_panel=_TOLD, help="The whole; default the deadline.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=_TOLD, help="Figures as JSON.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", rich_help_panel=_TOLD, help="A picture: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Load a server: requests leave when they are due, whether or not earlier ones were answered.

    Latencies count from when a request was due, so that waiting is counted too.
    """
    out, err = Console(), Console(stderr=True)
    with failures_told(err, as_json=bool(flags.json)):
        mix = _read("--kind", mix_of, kind)
        server = pointed(flags, os.environ)
        asked = Asked(dict(_named(said) for said in model or ()))
        aim = Aim(server.target, server.api_key, http, encryption(flags), asked)
        pattern = Pattern(
            mix,
            arrivals,
            _read("--prompt-chars", lengths_of, prompt_chars),
            _read("--output-tokens", lengths_of, output_tokens),
        )
        if trace is not None:
            shots = _read("--trace", lambda file: traced(file, default_kind=next(iter(mix))), trace)
            seconds = shots[-1].at + 1e-9
            steps, warm_up = [_Step(len(shots) / max(seconds, 1.0), seconds, shots)], 0.0
        else:
            whole = warm_up + duration
            steps = [_Step(each, whole, drawn(pattern, each, whole, seed)) for each in _read("--rate", rates_of, rate)]
        rules, wanted = (
            Rules(deadline, max_in_flight, drain),
            Slo(first_token_slo, slo if slo is not None else deadline),
        )
        summaries = [_measure(err, bool(flags.json), aim, step, rules, workers, warm_up, wanted) for step in steps]
        settings = {"target": http or server.target, "kind": kind, "prompt_chars": prompt_chars, "seed": seed}
        settings |= {"output_tokens": output_tokens, "arrivals": arrivals.value, "deadline": deadline}
        _tell(out, bool(flags.json), settings, summaries, report, plot)


def _measure(
    err: Console, quiet: bool, aim: Aim, step: _Step, rules: Rules, workers: int, warm_up: float, slo: Slo
) -> Summary:
    said = f"[dim]{len(step.shots):,} requests in {step.seconds:g} s, {step.rate:,.4g} a second[/dim]"
    try:
        if quiet or not err.is_terminal:
            shootings = run(aim, step.shots, rules, workers)
        else:
            with err.status(said, spinner="dots"):
                shootings = run(aim, step.shots, rules, workers)
    except ModuleNotFoundError as missing:
        raise UsageError(f"{missing.name} is needed: pip install 'seam-client[load]'") from missing
    except (ValueError, OSError) as unfit:
        raise UsageError(str(unfit)) from unfit
    return summary_of(shootings, rate=step.rate, seconds=step.seconds, warm_up=warm_up, slo=slo)


def _tell(
    out: Console,
    as_json: bool,
    settings: dict[str, Any],
    summaries: list[Summary],
    report: Path | None,
    plot: Path | None,
) -> None:
    told = scripting.report_as_json(settings, tuple(summaries))
    try:
        if report is not None:
            report.write_text(told + "\n", encoding="utf-8")
        if plot is not None:
            plotting.plot(summaries, plot, f"seam load: {settings['kind']} at {settings['target']}")
    except ModuleNotFoundError as missing:
        raise UsageError(f"--plot needs {missing.name}: pip install 'seam-client[load]'") from missing
    except (ValueError, OSError) as unfit:
        raise UsageError(str(unfit)) from unfit
    if as_json:
        typer.echo(told)
    else:
        out.print(load_view.summaries_view(summaries))


def _named(said: str) -> tuple[Kind, str]:
    kind, _, name = said.partition("=")
    if not name or kind not in {each.value for each in Kind}:
        raise UsageError(f"--model {said}: say KIND=NAME, as chat=large")
    return Kind(kind), name


def _read(option: str, read: Callable[[Any], _Value], said: Any) -> _Value:
    try:
        return read(said)
    except (ValueError, OSError) as unfit:
        raise UsageError(f"{option}: {unfit}") from unfit
