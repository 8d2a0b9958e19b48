"""What an operator may set about the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The same for every model.

    `max_waiting_sequences` and `max_waiting_tokens` bound what may wait for one model.
    `prompt_tokens_per_step` bounds the prompt tokens of a step in which other sequences decode, and so how long
    these wait for prompts; None is half of a model's step budget.
    `aging_steps`: a wait of this many steps counts as one priority more.
    `tenant_weights`: shares of tenants that differ from 1.
    `stop_retry_seconds`: what requests left at the end are told to wait before they are resumed elsewhere.
    """

    max_waiting_sequences: int = 4096
    max_waiting_tokens: int = 1_000_000
    prompt_tokens_per_step: int | None = None
    aging_steps: int = 256
    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    stop_retry_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_waiting_sequences", "max_waiting_tokens", "aging_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.prompt_tokens_per_step is not None and self.prompt_tokens_per_step < 1:
            raise ValueError(f"prompt_tokens_per_step is {self.prompt_tokens_per_step}; it must be at least 1")
        for tenant, weight in self.tenant_weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"tenant_weights[{tenant!r}] is {weight}; it must be above 0 and finite")
