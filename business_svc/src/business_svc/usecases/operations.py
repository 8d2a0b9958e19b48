"""What is served, and how it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from business_svc.domain.inference import Model, Replica, Task
from business_svc.errors import Reason, bad_field
from business_svc.ports import Inference
from business_svc.usecases.calling import Clock


@dataclass(frozen=True, slots=True)
class ModelPage:
    """`next_name` begins the next page; empty on the last."""

    models: tuple[Model, ...]
    next_name: str


@dataclass(frozen=True, slots=True)
class Status:
    """`uptime` in seconds."""

    version: str
    uptime: float
    replicas: tuple[Replica, ...]


class Operations:
    """Looks at the pool. `started_at` is a moment of the clock."""

    def __init__(self, inference: Inference, version: str, clock: Clock) -> None:
        self._inference = inference
        self._version = version
        self._clock = clock
        self._started_at = clock()

    def models(self) -> tuple[Model, ...]:
        """By name."""
        return tuple(sorted(self._inference.models(), key=lambda model: model.name))

    def model(self, name: str) -> Model:
        """Raises MODEL_NOT_FOUND."""
        for model in self.models():
            if model.name == name:
                return model
        raise bad_field("model", f"no model {name!r} is served", Reason.MODEL_NOT_FOUND)

    def page(self, size: int, first_name: str) -> ModelPage:
        """At most `size` models (all when 0) from `first_name` on."""
        rest = [model for model in self.models() if model.name >= first_name]
        if not size or len(rest) <= size:
            return ModelPage(tuple(rest), "")
        return ModelPage(tuple(rest[:size]), rest[size].name)

    def status(self) -> Status:
        return Status(self._version, self._clock() - self._started_at, tuple(self._inference.replicas()))

    def ready(self, task: Task | None = None) -> bool:
        """Whether every model of the task (of all tasks when None) can answer now; False where there is none."""
        asked: Sequence[Model] = [model for model in self._inference.models() if task is None or model.task is task]
        return bool(asked) and all(model.ready for model in asked)
