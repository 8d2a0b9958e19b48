"""The business server's metrics: every one, with its unit. What each answers is in docs/metrics.md."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from seam_telemetry import conventions
from seam_telemetry.labels import KnownNames

from business_svc.domain.inference import Replica, ReplicaState


class Instruments:
    """Recorded once a call, or once a stay at a replica."""

    def __init__(self, meter: Meter) -> None:
        self.models = KnownNames()
        self.rpc_server = conventions.RPC_SERVER.made_by(meter)
        self.rpc_client = conventions.RPC_CLIENT.made_by(meter)
        self.http_server = conventions.HTTP_SERVER.made_by(meter)
        self.operation = conventions.OPERATION.made_by(meter)
        self.token_usage = conventions.TOKEN_USAGE.made_by(meter)
        self.refusals = meter.create_counter(
            "seam.refusals", "{request}", "Calls that ended with an error, by the reason they were told"
        )
        self.attempts = meter.create_counter(
            "seam.link.attempts", "{attempt}", "Stays of requests at replicas, by how they ended"
        )
        self.retries = meter.create_counter(
            "seam.link.retries",
            "{request}",
            "Requests that went to another replica before their first token, by reason",
        )
        self.resumes = meter.create_counter(
            "seam.link.resumes", "{request}", "Answers that were continued on another replica, by outcome"
        )
        self.inside: Counter[str] = Counter()  # calls at the edges now
        meter.create_observable_gauge(
            "seam.calls.active", [self._inside], "{call}", "Calls that are being answered now, by edge"
        )

    def _inside(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self.inside[edge], {"seam.edge": edge}) for edge in ("grpc", "http")]


def watch_replicas(meter: Meter, replicas: Callable[[], Sequence[Replica]]) -> None:
    """Gauges read when somebody looks; read on another thread than the event loop's, from values replaced whole."""

    def states(_: CallbackOptions) -> Iterable[Observation]:
        found = Counter(replica.state for replica in replicas())
        return [Observation(found[state], {"seam.replica.state": state.value}) for state in ReplicaState]

    meter.create_observable_gauge("seam.replicas", [states], "{replica}", "Replicas of the pool, by state")
