"""What happened between two looks at a status: tokens and requests a second, and where the device's time went."""

from collections import deque
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field

from seam_client.answers import DeviceTime, ModelLoad, Replica, Status

HISTORY = 24
"""Rates kept of each model, for a line of the recent past."""
CAUSES = ("computing", "host", "slow readers", "loading", "no work")


@dataclass(frozen=True, slots=True)
class ModelRates:
    """Per second; `history` are output tokens (input tokens of a model that gives none), the newest last."""

    output_tokens: float
    input_tokens: float
    requests: float
    history: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaRates:
    """`shares` of the time by cause, in the order of CAUSES; empty while nothing is known."""

    models: Mapping[str, ModelRates]
    shares: tuple[float, ...]


@dataclass(slots=True)
class _Known:
    replica: Replica
    moment: float
    rates: ReplicaRates
    histories: dict[str, deque[float]] = field(default_factory=dict)


class Rates:
    """Facts in, rates out: no clock. A replica that came anew (another id) starts from nothing."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def look(self, status: Status, now: float) -> dict[str, ReplicaRates]:
        """By address. Between two looks without news from a replica its rates stay."""
        for address in self._known.keys() - {replica.address for replica in status.replicas}:
            del self._known[address]
        for replica in status.replicas:
            if replica.device_time is None:
                self._known.pop(replica.address, None)
            else:
                self._note(replica, now - replica.totals_age_seconds)
        return {address: known.rates for address, known in self._known.items()}

    def _note(self, replica: Replica, moment: float) -> None:
        known = self._known.get(replica.address)
        if known is None or known.replica.replica_id != replica.replica_id:
            self._known[replica.address] = _Known(replica, moment, ReplicaRates({}, shares_of(replica.device_time)))
            return
        if replica.device_time == known.replica.device_time:
            return
        seconds = max(moment - known.moment, 1e-3)
        before = {load.model: load for load in known.replica.models}
        models = {
            load.model: _rates(known.histories.setdefault(load.model, deque(maxlen=HISTORY)), before, load, seconds)
            for load in replica.models
        }
        known.rates = ReplicaRates(models, shares_of(replica.device_time, known.replica.device_time))
        known.replica, known.moment = replica, moment


def shares_of(spent: DeviceTime | None, before: DeviceTime | None = None) -> tuple[float, ...]:
    """In the order of CAUSES, since `before` or since the start."""
    if spent is None:
        return ()
    computing, no_work, stalled, host, loading = (
        max(0.0, now - then)
        for now, then in zip(astuple(spent), astuple(before) if before else (0.0,) * 5, strict=True)
    )
    total = computing + no_work + stalled + host + loading
    return tuple(part / total for part in (computing, host, stalled, loading, no_work)) if total else ()


def _rates(history: deque[float], before: Mapping[str, ModelLoad], load: ModelLoad, seconds: float) -> ModelRates:
    then = before.get(load.model)
    if then is None or then.output_token_count > load.output_token_count:  # it came, or came anew
        return ModelRates(0.0, 0.0, 0.0)
    output = (load.output_token_count - then.output_token_count) / seconds
    inputs = max(0, load.input_token_count - then.input_token_count) / seconds
    requests = max(0, load.finished_request_count - then.finished_request_count) / seconds
    history.append(output if load.output_token_count else inputs)
    return ModelRates(output, inputs, requests, tuple(history))
