"""The business server's metrics: every one, with its unit. What each answers is in docs/metrics.md."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from seam_telemetry import conventions
from seam_telemetry.counted import Counted
from seam_telemetry.labels import KnownNames

from business_svc.domain.inference import Replica, ReplicaState
from business_svc.errors import Reason
from business_svc.observing import Edge


class Instruments:
    """Recorded once a call, or once a stay at a replica."""

    def __init__(self, meter: Meter) -> None:
        self.models = KnownNames()
        self.rpc_server = conventions.RPC_SERVER.made_by(meter)
        self.rpc_client = conventions.RPC_CLIENT.made_by(meter)
        self.http_server = conventions.HTTP_SERVER.made_by(meter)
        self.operation = conventions.OPERATION.made_by(meter)
        self.token_usage = conventions.TOKEN_USAGE.made_by(meter)
        self.refusals = Counted(
            meter,
            "seam.refusals",
            "{request}",
            "Calls that ended with an error, by the reason they were told",
            "seam.edge",
            "seam.reason",
        )
        self.attempts = Counted(
            meter, "seam.link.attempts", "{attempt}", "Stays of requests at replicas, by how they ended", "seam.outcome"
        )
        self.retries = Counted(
            meter,
            "seam.link.retries",
            "{request}",
            "Requests that went to another replica before their first token, by reason",
            "seam.reason",
        )
        self.resumes = Counted(
            meter,
            "seam.link.resumes",
            "{request}",
            "Answers that were continued on another replica, by outcome",
            "seam.outcome",
        )
        self._begin_at_zero()
        self.inside: Counter[str] = Counter()  # calls at the edges now
        meter.create_observable_gauge(
            "seam.calls.active", [self._inside], "{call}", "Calls that are being answered now, by edge"
        )

    def _begin_at_zero(self) -> None:
        """What is counted rarely is there from the beginning, so that its first time is seen as an increase."""
        for outcome in ("answered", "failed", "left"):
            self.attempts.add(0, outcome)
        for outcome in ("finished", "failed", "left"):
            self.resumes.add(0, outcome)
        for reason in (Reason.REPLICA_LOST, Reason.DRAINING, Reason.QUEUE_FULL):
            self.retries.add(0, reason.value)
        for edge in Edge:
            for reason in (Reason.QUEUE_FULL, Reason.DEADLINE_INFEASIBLE, Reason.NO_REPLICA, Reason.INTERNAL_FAULT):
                self.refusals.add(0, edge.value, reason.value)

    def _inside(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self.inside[edge.value], {"seam.edge": edge.value}) for edge in Edge]


def watch_replicas(meter: Meter, replicas: Callable[[], Sequence[Replica]]) -> None:
    """Gauges read when somebody looks; read on another thread than the event loop's, from values replaced whole."""

    def states(_: CallbackOptions) -> Iterable[Observation]:
        found = Counter(replica.state for replica in replicas())
        return [Observation(found[state], {"seam.replica.state": state.value}) for state in ReplicaState]

    meter.create_observable_gauge("seam.replicas", [states], "{replica}", "Replicas of the pool, by state")
