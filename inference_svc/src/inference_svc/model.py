"""A model as the rest of the package holds it: what it is, how it reads text, and what computes it. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from inference_svc.engine.runner import EncoderRunner, GenerationRunner
from inference_svc.requests import Grammars, Message, ModelInfo, Task


class PrefixSharing(StrEnum):
    """What beginnings of sequences are kept for others of the same tenant. A token of an answer is computed in another
    way than one of a prompt and may differ from it in the last bit: with PROMPTS a request has the same bits whether
    anything was kept or not; with ALL the next turn of a conversation finds the answer before it too."""

    OFF = "off"
    PROMPTS = "prompts"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the settings.

    `source` is a hub name, a local folder, or "embedded:NAME" for a default that needs no hub.
    `device` is "cpu", "cuda", "cuda:1"; `dtype` "auto", "float32", "bfloat16", "float16".
    On a GPU, where `cache_token_count` is None, the cache has what `cache_memory_share` of its memory leaves beside all
    else. `prefix_cache` is what sequences of a tenant share of their beginnings.
    None leaves a limit to the model and the device. It falls asleep when unused for `idle_sleep_seconds`; never where
    that is None.
    """

    name: str
    task: Task
    source: str
    device: str = "cpu"
    dtype: str = "auto"
    max_context_tokens: int | None = None
    cache_token_count: int | None = None
    cache_memory_share: float = 0.9
    slot_count: int | None = None
    prefix_cache: PrefixSharing = PrefixSharing.ALL
    step_token_budget: int | None = None
    idle_sleep_seconds: float | None = None


class Tokenizer(Protocol):
    """What belongs to the model's artifact and reads and writes its text. Every method may be called from any thread,
    and may take long for long texts: callers keep it off the event loop."""

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Ids that end an answer, as the model's generation settings say; empty for encoders."""
        ...

    @property
    def has_chat_template(self) -> bool: ...

    def encode_chat(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        """Ids of the rendered conversation. Raises InvalidField when the template refuses it."""
        ...

    def encode_text(self, text: str) -> list[int]:
        """Ids with the model's special tokens."""
        ...

    def encode_pair(self, text: str, text_pair: str | None) -> tuple[list[int], list[int] | None]:
        """Ids with special tokens and token type ids (None where the model has none), not truncated."""
        ...

    def truncate_pair(self, text: str, text_pair: str | None, limit: int) -> tuple[list[int], list[int] | None]:
        """As encode_pair, the end of the text (of the pair's second half, if there is one) dropped to fit `limit`."""
        ...

    def prompt_for(self, prompt_name: str) -> str:
        """The text that the model's own configuration puts before each input under this name ("" for the default
        prompt, which may be empty). Raises InvalidField for a name that the model does not have."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the ids, special tokens skipped; an unfinished character at either end shows as U+FFFD."""
        ...

    def token_text(self, token_id: int) -> str:
        """One token's own text, special tokens shown, for logprobs."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """Ready to be served. A generation model has a GenerationRunner, the others an EncoderRunner; one that sleeps has
    none. `grammars` is None where the model takes no format."""

    info: ModelInfo
    tokenizer: Tokenizer
    runner: GenerationRunner | EncoderRunner | None
    step_token_budget: int
    grammars: Grammars | None = None
