"""Outcomes as figures: percentiles, goodput, refusals and errors by what they were, and how busy the client was."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from seam_client.load.outcome import Outcome
from seam_client.load.shooting import Shooting

BUSY_CPU, LATE_SECONDS = 0.8, 0.05


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds. None where there was nothing to measure."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Failures:
    """Requests that ended alike. `with_retry_info` of them said when to come again."""

    code: str
    reason: str
    count: int
    with_retry_info: int
    latency: Percentiles | None


@dataclass(frozen=True, slots=True)
class ClientLoad:
    """`cpu`: the busiest process's share of a core while sending. `send_lag`: from due to sent. Where `saturated`, the
    figures tell of this client as much as of the server: give it more workers, or another machine."""

    workers: int
    cpu: float
    loop_lag: Percentiles | None
    send_lag: Percentiles | None
    saturated: bool


@dataclass(frozen=True, slots=True)
class Slo:
    """What a good answer is: whole, its first token and its end in time (seconds from when it was due)."""

    first_token: float | None = None
    end_to_end: float | None = None

    def met(self, outcome: Outcome) -> bool:
        if not outcome.succeeded:
            return False
        first_in_time = self.first_token is None or outcome.first_latency <= self.first_token
        return first_in_time and (self.end_to_end is None or outcome.latency <= self.end_to_end)


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the requests that were due between the warm-up and the schedule's end. Rates are a second of that time."""

    rate: float
    seconds: float
    due: int
    sent: int
    not_sent: int
    succeeded: int
    good: int
    goodput: float
    good_share: float
    output_tokens_per_second: float
    input_tokens_per_second: float
    end_to_end: Percentiles | None
    first_token: Percentiles | None
    per_output_token: Percentiles | None
    between_texts: Percentiles | None
    refused: tuple[Failures, ...]
    errors: tuple[Failures, ...]
    client: ClientLoad

    @property
    def refused_count(self) -> int:
        return sum(failures.count for failures in self.refused)

    @property
    def error_count(self) -> int:
        return sum(failures.count for failures in self.errors)


def percentiles_of(values: Iterable[float]) -> Percentiles | None:
    """By the nearest rank: each is a value that was measured."""
    ordered = sorted(values)
    if not ordered:
        return None

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    mean = math.fsum(ordered) / len(ordered)
    return Percentiles(len(ordered), mean, at(0.5), at(0.9), at(0.95), at(0.99), ordered[-1])


def summary_of(shootings: Sequence[Shooting], *, rate: float, seconds: float, warm_up: float, slo: Slo) -> Summary:
    """`seconds` is the schedule's whole length, the warm-up included."""
    counted = [o for shooting in shootings for o in shooting.outcomes if o.due >= warm_up]
    sent = [outcome for outcome in counted if outcome.sent is not None]
    succeeded = [outcome for outcome in sent if outcome.succeeded]
    good = sum(slo.met(outcome) for outcome in succeeded)
    measured = max(seconds - warm_up, 1e-9)
    streamed = [outcome for outcome in succeeded if outcome.texts]
    return Summary(
        rate=rate,
        seconds=measured,
        due=len(counted),
        sent=len(sent),
        not_sent=len(counted) - len(sent),
        succeeded=len(succeeded),
        good=good,
        goodput=good / measured,
        good_share=good / len(counted) if counted else 0.0,
        output_tokens_per_second=sum(outcome.output_tokens for outcome in succeeded) / measured,
        input_tokens_per_second=sum(outcome.input_tokens for outcome in succeeded) / measured,
        end_to_end=percentiles_of(outcome.latency for outcome in succeeded),
        first_token=percentiles_of(outcome.first_latency for outcome in streamed),
        per_output_token=percentiles_of(_per_token(outcome) for outcome in streamed if outcome.output_tokens > 1),
        between_texts=percentiles_of(
            after - before for outcome in streamed for before, after in pairwise(outcome.texts)
        ),
        refused=_failures(outcome for outcome in sent if outcome.refused),
        errors=_failures(outcome for outcome in sent if not outcome.succeeded and not outcome.refused),
        client=_client(shootings, sent),
    )


def _per_token(outcome: Outcome) -> float:
    """Time per output token after the first."""
    return (outcome.texts[-1] - outcome.texts[0]) / (outcome.output_tokens - 1)


def _failures(outcomes: Iterable[Outcome]) -> tuple[Failures, ...]:
    """The most frequent first."""
    alike: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        alike[outcome.code, outcome.reason].append(outcome)
    found = [
        Failures(code, reason, len(those), sum(o.retry_info for o in those), percentiles_of(o.latency for o in those))
        for (code, reason), those in alike.items()
    ]
    return tuple(sorted(found, key=lambda failures: -failures.count))


def _client(shootings: Sequence[Shooting], sent: Sequence[Outcome]) -> ClientLoad:
    cpu = max((shooting.cpu for shooting in shootings), default=0.0)
    send_lag = percentiles_of(outcome.sent - outcome.due for outcome in sent if outcome.sent is not None)
    late = send_lag is not None and send_lag.p99 > LATE_SECONDS
    loop_lag = percentiles_of(lag for shooting in shootings for lag in shooting.lags)
    return ClientLoad(len(shootings), cpu, loop_lag, send_lag, cpu > BUSY_CPU or late)
