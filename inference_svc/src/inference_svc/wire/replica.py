"""What sessions share: the engine that they ask, and what each is told of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from seam.inference.v1 import model_service_pb2 as model_pb
from seam.inference.v1 import session_pb2 as session_pb

from inference_svc.answering import Admits, Answers
from inference_svc.catalogue import Catalogue
from inference_svc.observing import UNOBSERVED, RequestObserver
from inference_svc.requests import ModelLoad
from inference_svc.wire.inference_wire import write_load, write_model, write_totals


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """`heartbeat` and `hello_timeout` in seconds. `max_sessions` counts those that have not said hello too. A session
    with more than about `max_unread_bytes` of results that wait to be read is given up."""

    max_live_requests: int = 2_048
    heartbeat: float = 0.5
    hello_timeout: float = 10.0
    max_sessions: int = 256
    max_unread_bytes: int = 32 * 1024 * 1024


class Replica:
    """One engine with all that stands before it. Owned by the event loop."""

    def __init__(
        self,
        engine: Answers[Any],
        admission: Admits[Any],
        catalogue: Catalogue,
        limits: SessionLimits,
        replica_id: str,
        clock: Callable[[], float],
        observer: RequestObserver = UNOBSERVED,
    ) -> None:
        self.engine = engine
        self.admission = admission
        self.catalogue = catalogue
        self.limits = limits
        self.replica_id = replica_id
        self.clock = clock
        self.observer = observer
        self._leaving = False

    def leave(self) -> None:
        """From now on it drains."""
        self._leaving = True

    @property
    def draining(self) -> bool:
        """Whether no work is taken: this replica leaves, or its engine has stopped and nobody has noticed yet."""
        return self._leaving or not self.engine.alive

    @property
    def models_version(self) -> int:
        return self.catalogue.version

    def models(self) -> Sequence[model_pb.Model]:
        return [write_model(entry) for entry in self.catalogue.entries()]

    def load(self) -> session_pb.Load:
        """Of every model, in the order that models are told."""
        known = {load.model: load for load in self.engine.loads()}
        names = self.catalogue.names()
        return write_load([known.get(name) or ModelLoad(name) for name in names], draining=self.draining)

    def totals(self) -> session_pb.Totals:
        return write_totals(self.engine.totals(), self.engine.idle_seconds())
