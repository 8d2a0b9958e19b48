"""The inference server's metrics: every one, with its unit. What each answers is in docs/metrics.md."""

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from seam_telemetry import conventions
from seam_telemetry.counted import Counted
from seam_telemetry.labels import UNKNOWN, KnownNames

from inference_svc.catalogue import Catalogue
from inference_svc.engine.engine import Engine
from inference_svc.engine.step_tally import StepTally
from inference_svc.requests import ModelState, Priority

_FRAME = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_CANCEL = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_Point = tuple[float, dict[str, str]]


class Instruments:
    """Recorded once a request, a frame or a cancel."""

    def __init__(self, meter: Meter) -> None:
        self.models = KnownNames()
        self.rpc_server = conventions.RPC_SERVER.made_by(meter)
        self.request = conventions.REQUEST.made_by(meter)
        self.first_token = conventions.FIRST_TOKEN.made_by(meter)
        self.per_token = conventions.PER_TOKEN.made_by(meter)
        self.tokens = Counted(
            meter,
            "seam.tokens",
            "{token}",
            "Tokens of requests that finished: computed input, input found in the cache, output",
            "gen_ai.request.model",
            "seam.kind",
        )
        self.refusals = Counted(
            meter,
            "seam.refusals",
            "{request}",
            "Requests that failed here, by reason",
            "gen_ai.request.model",
            "seam.reason",
        )
        for reason in ("QUEUE_FULL", "DEADLINE_INFEASIBLE", "INTERNAL_FAULT"):  # the first time is seen as an increase
            self.refusals.add(0, UNKNOWN, reason)
        self.frame = meter.create_histogram(
            "seam.session.frame.requests",
            "{request}",
            "Requests that one frame of a session has news of",
            explicit_bucket_boundaries_advisory=list(_FRAME),
        )
        self.cancel_to_free = meter.create_histogram(
            "seam.cancel_to_free",
            "s",
            "From a cancel reaching the engine until what the request held is free",
            explicit_bucket_boundaries_advisory=list(_CANCEL),
        )


class EngineGauges:
    """What the engine tells whoever looks: nothing is recorded in a step."""

    def __init__(self, engine: Engine, catalogue: Catalogue) -> None:
        self._engine = engine
        self._catalogue = catalogue

    def watch(self, meter: Meter) -> None:
        counters: list[tuple[str, str, str, Callable[[], Iterable[_Point]]]] = [
            ("seam.engine.time", "s", "The model thread's time, by what it went to", self._time),
            ("seam.engine.steps", "{step}", "Steps taken", lambda: self._of_tally(lambda tally: tally.steps)),
            ("seam.engine.step.tokens", "{token}", "Tokens that steps computed", self._tokens),
            (
                "seam.engine.step.capacity",
                "{token}",
                "Tokens that those steps could have computed",
                lambda: self._of_tally(lambda tally: tally.capacity_tokens),
            ),
            (
                "seam.engine.step.sequences",
                "{sequence}",
                "Sequences or texts that steps computed something for",
                lambda: self._of_tally(lambda tally: tally.sequences),
            ),
            (
                "seam.credit.stalls",
                "{stall}",
                "How often an answer waited for its reader: the last credit was used with more to say",
                lambda: self._of_tally(lambda tally: tally.stalls),
            ),
        ]
        gauges: list[tuple[str, str, str, Callable[[], Iterable[_Point]]]] = [
            ("seam.sequences.running", "{sequence}", "Sequences that hold a slot", self._running),
            ("seam.sequences.waiting", "{sequence}", "Sequences that wait, by priority", self._waiting),
            ("seam.tokens.queued", "{token}", "Prompt tokens still to be computed", self._queued),
            ("seam.predicted_wait", "s", "What a request of normal priority would wait now", self._wait),
            ("seam.cache.limit", "{token}", "Tokens that the cache of a model holds", self._cache_limit),
            ("seam.cache.used", "{token}", "Tokens of running sequences in the cache of a model", self._cache_used),
            ("seam.models", "{model}", "Models here, by state", self._states),
        ]
        for name, unit, says, read in counters:
            meter.create_observable_counter(name, [_callback(read)], unit, says)
        for name, unit, says, read in gauges:
            meter.create_observable_gauge(name, [_callback(read)], unit, says)

    def _time(self) -> Iterable[_Point]:
        return [(seconds, {"seam.cause": cause}) for cause, seconds in self._engine.idle_seconds().items()]

    def _of_tally(self, what: Callable[[StepTally], int]) -> Iterable[_Point]:
        return [(what(tally), _of(model)) for model, (tally, _) in self._engine.tallies().items()]

    def _tokens(self) -> Iterable[_Point]:
        for model, (tally, _) in self._engine.tallies().items():
            yield tally.prompt_tokens, {**_of(model), "seam.kind": "prompt"}
            yield tally.decode_tokens, {**_of(model), "seam.kind": "decode"}

    def _running(self) -> Iterable[_Point]:
        return [(load.running_sequence_count, _of(load.model)) for load in self._engine.loads()]

    def _waiting(self) -> Iterable[_Point]:
        for model, facts in self._engine.facts().items():
            for priority in Priority:
                yield facts.waiting.sequences[priority], {**_of(model), "seam.priority": priority.name.lower()}

    def _queued(self) -> Iterable[_Point]:
        return [(load.queued_token_count, _of(load.model)) for load in self._engine.loads()]

    def _wait(self) -> Iterable[_Point]:
        return [(load.predicted_wait, _of(load.model)) for load in self._engine.loads()]

    def _cache_limit(self) -> Iterable[_Point]:
        return [(limit, _of(model)) for model, (_, limit) in self._engine.tallies().items() if limit]

    def _cache_used(self) -> Iterable[_Point]:
        limits = {model: limit for model, (_, limit) in self._engine.tallies().items() if limit}
        return [
            (max(0, limits[load.model] - load.free_cache_token_count), _of(load.model))
            for load in self._engine.loads()
            if load.model in limits
        ]

    def _states(self) -> Iterable[_Point]:
        found = [entry.state for entry in self._catalogue.entries()]
        return [(found.count(state), {"seam.model.state": state.value}) for state in ModelState]


def _callback(read: Callable[[], Iterable[_Point]]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _: [Observation(value, labels) for value, labels in read()]


def _of(model: str) -> dict[str, str]:
    return {"gen_ai.request.model": model}
