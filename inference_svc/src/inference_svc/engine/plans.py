"""What goes in and out of the generation scheduler."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from inference_svc.engine.runner import Row
from inference_svc.engine.waiting_count import Waiting
from inference_svc.requests import Generation


@dataclass(frozen=True, slots=True)
class GenerationLimits:
    """What the runner holds and what a step may cost.

    `prompt_tokens_per_step` bounds how long sequences that decode wait for prompts in the same step; None leaves the
    whole step budget to them. `aging_steps` is how long a wait lasts before it counts as one priority more.
    The cache is given out in blocks of `cache_block_tokens`, and is a whole number of them.
    """

    slot_count: int
    cache_token_count: int
    step_token_budget: int
    prompt_tokens_per_step: int | None = None
    aging_steps: int = 256
    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    cache_block_tokens: int = 1


@dataclass(frozen=True, slots=True)
class Placement:
    """A sequence gets a slot, which is closed: open it, then say `opened`, or `remove` the sequence."""

    key: int
    slot: int
    generation: Generation


@dataclass(frozen=True, slots=True)
class Step:
    """Rows to compute together, whose sequences are `keys`; `prompt_tokens` and `decode_rows` are what it costs."""

    rows: tuple[Row, ...]
    keys: tuple[int, ...]
    prompt_tokens: int
    decode_rows: int
    began: float


@dataclass(frozen=True, slots=True)
class SchedulerFacts:
    """`stalled` is the part of `waiting` that waits for its readers; `backlog_tokens` are prompt tokens of sequences
    that have a slot; `yielding` counts slots that a waiting sequence of each priority could take: free ones, those of
    stalled sequences and of lower priorities."""

    running: int
    waiting: Waiting
    stalled: Waiting
    backlog_tokens: int
    free_cache_tokens: int
    yielding: tuple[int, ...]
