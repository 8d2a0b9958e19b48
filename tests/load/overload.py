"""Three times what a split Seam can do, for a minute, by an open loop: `python -m load.overload` from tests/.

Finds the peak of goodput by a sweep, offers a multiple of it, and goes on with a trickle to see how soon answers are in
time again. What is asked of it: goodput at 0.9 of the peak or more, refusals answered within 50 ms (p99), all of them
with RetryInfo, flat memory, good answers 2 s after the load's end. `--system echo` has a model that only waits, so that
its capacity takes no CPU from client and server; `--system real` is `seam-up` with its own small model.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from seam_client.load.outcome import Outcome
from seam_client.load.schedule import Arrivals, Kind, Lengths, Pattern, Shot, drawn
from seam_client.load.shooting import Rules, Shooting
from seam_client.load.summary import Slo, Summary, percentiles_of, summary_of
from seam_client.load.workers import Aim, run
from support.echo_system import KEY, echo_system
from support.seam_up import seam_up

MIB = 1024 * 1024


@dataclass(frozen=True)
class Served:
    """Where load goes, and the processes that bear it."""

    aim: Aim
    pids: Mapping[str, int]


@dataclass
class Memory:
    """Resident MiB of each process over time: (seconds, MiB)."""

    samples: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def growth(self) -> float:
        """The most that a process grew after the first third: what is warm should stay."""
        grown = []
        for samples in self.samples.values():
            third = samples[len(samples) // 3 :]
            grown.append(max(mib for _, mib in third) - third[0][1])
        return max(grown, default=0.0)


@dataclass(frozen=True)
class Result:
    """`ratio` is the overload's goodput over the peak's; `recovery` seconds from the load's end until every answer was
    good again; refusals' p99 as the client saw it, and less what the client itself sent them late."""

    peak: Summary
    overload: Summary
    ratio: float
    refusal_p99: float | None
    refusal_p99_from_sent: float | None
    retry_info_share: float
    recovery: float
    memory_growth: float

    @property
    def kept(self) -> dict[str, bool]:
        return {
            "goodput >= 0.9 of peak": self.ratio >= 0.9,
            "refusals within 50 ms p99": self.refusal_p99_from_sent is not None and self.refusal_p99_from_sent <= 0.05,
            "RetryInfo with every refusal": self.retry_info_share == 1.0,
            "memory flat (grows < 32 MiB)": self.memory_growth < 32,
            "recovered within 2 s": self.recovery <= 2.0,
        }


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    pattern = Pattern({Kind.CHAT: 1.0}, Arrivals.POISSON, Lengths("lognormal", 120, 0.5), Lengths("uniform", 16, 48))
    with _served(options) as served:
        result, shots, shooting, memory = _overload(served, pattern, options)
    told = _told(result, options)
    print(json.dumps(told, indent=1))
    if options.json:
        options.json.write_text(json.dumps(told | {"memory": memory.samples}, indent=1) + "\n")
    if options.plot:
        _plot(options.plot, result, shots, shooting, memory, options)
    return 0 if all(result.kept.values()) else 1


def _overload(
    served: Served, pattern: Pattern, options: argparse.Namespace
) -> tuple[Result, list[Shot], Shooting, Memory]:
    slo, rules = Slo(end_to_end=options.deadline), Rules(options.deadline, options.max_in_flight, drain=5.0)
    peak = _find_peak(served, pattern, rules, slo, options)
    rate = options.times * peak.goodput
    load = drawn(pattern, rate, options.seconds, options.seed)
    trickle = drawn(pattern, max(1.0, 0.3 * peak.goodput), options.trickle_seconds, options.seed + 1)
    after = [Shot(options.seconds + s.at, s.kind, s.prompt_characters, s.output_tokens) for s in trickle]
    with _watched(served.pids) as memory:
        (shooting,) = run(served.aim, [*load, *after], rules)
    during = Shooting([o for o in shooting.outcomes if o.due < options.seconds], shooting.lags, shooting.cpu)
    overload = summary_of([during], rate=rate, seconds=options.seconds, warm_up=0.0, slo=slo)
    refused = [outcome for outcome in during.outcomes if outcome.refused]
    own = percentiles_of(o.latency - ((o.sent or 0.0) - o.due) for o in refused)
    seen = percentiles_of(outcome.latency for outcome in refused)
    result = Result(
        peak,
        overload,
        ratio=overload.goodput / peak.goodput,
        refusal_p99=seen.p99 if seen else None,
        refusal_p99_from_sent=own.p99 if own else None,
        retry_info_share=sum(o.retry_info for o in refused) / len(refused) if refused else 0.0,
        recovery=_recovery(shooting.outcomes, slo, options.seconds),
        memory_growth=memory.growth(),
    )
    return result, load, shooting, memory


def _find_peak(served: Served, pattern: Pattern, rules: Rules, slo: Slo, options: argparse.Namespace) -> Summary:
    """Rates double until goodput falls behind what is offered; then those between the last two, closer."""
    best: Summary | None = None

    def measure(rate: float) -> Summary:
        whole = options.step_seconds + 1.0
        shootings = run(served.aim, drawn(pattern, rate, whole, options.seed), rules)
        found = summary_of(shootings, rate=rate, seconds=whole, warm_up=1.0, slo=slo)
        print(f"  {rate:6.1f}/s offered, {found.goodput:6.2f}/s good, {found.refused_count} refused", file=sys.stderr)
        return found

    rate = options.first_rate
    while True:
        found = measure(rate)
        best = found if best is None or found.goodput > best.goodput else best
        if found.good_share < 0.8:
            break
        rate *= 2
    for part in (0.5, 0.65, 0.8):
        found = measure(rate * part)
        best = found if found.goodput > best.goodput else best
    return best


def _recovery(outcomes: list[Outcome], slo: Slo, end: float) -> float:
    """From the load's end until the last request after it that was not answered well had come; 0 where all were."""
    return max((o.due - end for o in outcomes if o.due >= end and not slo.met(o)), default=0.0)


@contextmanager
def _watched(pids: Mapping[str, int]) -> Iterator[Memory]:
    memory, over, began = Memory({name: [] for name in pids}), threading.Event(), time.monotonic()
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}

    def watch() -> None:
        while not over.wait(0.5):
            for name, process in processes.items():
                memory.samples[name].append((time.monotonic() - began, process.memory_info().rss / MIB))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


@contextmanager
def _served(options: argparse.Namespace) -> Iterator[Served]:
    if options.system == "echo":
        with echo_system(step_seconds=options.model_step, slots=options.slots) as system:
            yield Served(Aim(system.grpc, KEY), system.pids)
        return
    with seam_up("--topology", "split", SEAM_CHAT_SLOT_COUNT=str(options.slots)) as up:
        pids = {"business": up.ready["pids"]["business"]}
        pids |= {f"inference {n}": pid for n, pid in enumerate(up.ready["pids"]["inference"], 1)}
        aim = Aim(up.ready["grpc"], up.ready["api_key"])
        run(aim, [Shot(0.1 * n, Kind.CHAT, 120, 32) for n in range(20)], Rules())  # first steps are slower
        yield Served(aim, pids)


def _told(result: Result, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "system": options.system,
        "times": options.times,
        "seconds": options.seconds,
        "deadline": options.deadline,
        "cores": os.cpu_count(),
        "ratio": round(result.ratio, 3),
        "refusal_p99_ms": _ms(result.refusal_p99),
        "refusal_p99_from_sent_ms": _ms(result.refusal_p99_from_sent),
        "retry_info_share": result.retry_info_share,
        "recovery_seconds": round(result.recovery, 2),
        "memory_growth_mib": round(result.memory_growth, 1),
        "kept": result.kept,
        "peak": asdict(result.peak),
        "overload": asdict(result.overload),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _plot(
    file: Path, result: Result, shots: list[Shot], shooting: Shooting, memory: Memory, options: argparse.Namespace
) -> None:
    """What was offered, answered well and refused in each second, and the memory of the processes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    seconds = range(int(options.seconds + options.trickle_seconds))
    slo = Slo(end_to_end=options.deadline)
    lines = {
        "offered": ("#bbbbbb", [o.due for o in shooting.outcomes]),
        "refused at once, with RetryInfo": (
            "#777777",
            [o.due for o in shooting.outcomes if o.refused and o.retry_info],
        ),
        "answered in time": ("#2a9d8f", [o.due for o in shooting.outcomes if slo.met(o)]),
        "anything else": ("#d1495b", [o.due for o in shooting.outcomes if not slo.met(o) and not o.refused]),
    }
    for name, (colour, moments) in lines.items():
        counts = [sum(second <= moment < second + 1 for moment in moments) for second in seconds]
        above.plot(seconds, counts, color=colour, label=name)
    above.axhline(result.peak.goodput, color="#2a9d8f", linestyle=":", label="peak of goodput")
    above.set(ylabel="requests a second", ylim=(0, None))
    above.legend(frameon=False, fontsize=8, ncols=2)
    for name, samples in memory.samples.items():
        below.plot([at for at, _ in samples], [mib for _, mib in samples], label=f"{name} process")
    below.set(xlabel="seconds", ylabel="resident MiB", ylim=(0, None))
    below.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{options.times:g} times its capacity for {options.seconds:g} s", fontsize=11)
    figure.savefig(file, dpi=110)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="load.overload")
    parser.add_argument("--system", choices=("echo", "real"), default="real")
    parser.add_argument("--times", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--trickle-seconds", type=float, default=8.0, help="of light load, after it")
    parser.add_argument("--step-seconds", type=float, default=8.0, help="each rate of the sweep")
    parser.add_argument("--first-rate", type=float, default=4.0)
    parser.add_argument("--deadline", type=float, default=2.0)
    parser.add_argument("--max-in-flight", type=int, default=2000)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--model-step", type=float, default=0.025, help="seconds; of the echo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
