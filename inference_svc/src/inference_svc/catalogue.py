"""Which models this replica has, in the order they came, and whether each can answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
        self._awaited = set(self._entries)
        self._loaded: dict[str, LoadedModel] = {}
        self._listeners: list[Callable[[], None]] = []
        self.version = 0  # counts the changes

    @classmethod
    def fixed(cls, models: Sequence[ModelInfo]) -> "Catalogue":
        """Of models that are ready and stay so; nothing of them is loaded here."""
        catalogue = cls(())
        catalogue._entries = {model.name: CatalogueEntry(model, ModelState.READY) for model in models}
        return catalogue

    def listen(self, listener: Callable[[], None]) -> None:
        """It is called after every change."""
        self._listeners.append(listener)

    def loading(self, spec: ModelSpec) -> None:
        self._put(spec.name, CatalogueEntry(_info_of(spec), ModelState.LOADING))

    def ready(self, model: LoadedModel) -> None:
        self._loaded[model.info.name] = model
        self._awaited.discard(model.info.name)
        self._put(model.info.name, CatalogueEntry(model.info, ModelState.READY))

    def sleeping(self, name: str) -> None:
        """It is read and counted as before, and nothing here holds what computes it."""
        self._loaded[name] = replace(self._loaded[name], runner=None)
        self._put(name, CatalogueEntry(self._entries[name].info, ModelState.SLEEPING))

    def waking(self, name: str) -> None:
        self._put(name, CatalogueEntry(self._entries[name].info, ModelState.WAKING))

    def unloading(self, name: str) -> None:
        self._loaded.pop(name, None)
        self._put(name, CatalogueEntry(self._entries[name].info, ModelState.UNLOADING))

    def failed(self, spec: ModelSpec, why: str) -> None:
        self._loaded.pop(spec.name, None)
        self._put(spec.name, CatalogueEntry(_info_of(spec, notice=why), ModelState.FAILED))

    def gone(self, name: str) -> None:
        self._loaded.pop(name, None)
        self._put(name, None)

    def _put(self, name: str, entry: CatalogueEntry | None) -> None:
        if entry is None:
            self._entries.pop(name, None)
        else:
            self._entries[name] = entry
        self.version += 1
        for listener in self._listeners:
            listener()

    @property
    def all_ready(self) -> bool:
        """Whether every model of the settings has been ready."""
        return not self._awaited

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
