"""Which models this replica has, in the settings' order, and whether each can answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from inference_svc.errors import FieldViolation, ModelNotFound, ModelNotReady
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.requests import ModelInfo, ModelLimits, ModelState

_RETRY_WHILE_LOADING = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model as anyone may see it now. Before it is loaded only the settings' part of `info` is known."""

    info: ModelInfo
    state: ModelState


class Catalogue:
    """Owned by the event loop; the only place that knows a model's state."""

    def __init__(self, specs: Sequence[ModelSpec]) -> None:
        self._entries = {spec.name: CatalogueEntry(_info_of(spec), ModelState.LOADING) for spec in specs}
        self._loaded: dict[str, LoadedModel] = {}

    def ready(self, model: LoadedModel) -> None:
        self._loaded[model.info.name] = model
        self._entries[model.info.name] = CatalogueEntry(model.info, ModelState.READY)

    def failed(self, spec: ModelSpec, why: str) -> None:
        self._entries[spec.name] = CatalogueEntry(_info_of(spec, notice=why), ModelState.FAILED)

    @property
    def all_ready(self) -> bool:
        return all(entry.state is ModelState.READY for entry in self._entries.values())

    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def entries(self) -> tuple[CatalogueEntry, ...]:
        return tuple(self._entries.values())

    def entry(self, name: str, field: str = "model") -> CatalogueEntry:
        """Raises ModelNotFound; `field` is where the name stands in the caller's message."""
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(self._entries) or "none"
            description = f"no model {name[:100]!r} is served here; there is {known}"
            raise ModelNotFound(f"{field}: {description}", violations=[FieldViolation(field, description)])
        return entry

    def loaded(self, name: str) -> LoadedModel:
        """Raises ModelNotFound or ModelNotReady."""
        entry = self.entry(name)
        model = self._loaded.get(name)
        if model is None:
            why = f": {entry.info.notice}" if entry.info.notice else ""
            raise ModelNotReady(f"model {name} is {entry.state.value}{why}", retry_after=_RETRY_WHILE_LOADING)
        return model


def _info_of(spec: ModelSpec, notice: str = "") -> ModelInfo:
    return ModelInfo(
        name=spec.name,
        task=spec.task,
        source=spec.source,
        architecture="",
        limits=ModelLimits(spec.max_context_tokens or 0, 0, 0, 0),
        device=spec.device,
        dtype=spec.dtype,
        vocabulary_size=0,
        notice=notice,
    )
