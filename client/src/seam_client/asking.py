"""What may be asked of a chat beside its messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. Only an assistant's content may be empty."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatSettings(TypedDict, total=False):
    """Settings of one chat; what is left out (or None) is the server's default: greedy, nothing penalised."""

    model: str
    """Name of the model; "chat" when left out."""
    system: str | None
    """A system message put before the others."""
    temperature: float | None
    """0 is greedy; at most 100."""
    top_k: int | None
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float | None
    """Keep the smallest set whose probability reaches this; in (0, 1]."""
    min_p: float | None
    """Keep tokens of at least this share of the likeliest one's probability; in [0, 1]."""
    repetition_penalty: float | None
    """Above 0; 1 is neutral."""
    presence_penalty: float | None
    """In [-2, 2]."""
    frequency_penalty: float | None
    """In [-2, 2]."""
    logit_bias: Mapping[int, float]
    """By the model's token ids, in [-100, 100]."""
    seed: int | None
    """Same seed, same conversation, same answer."""
    max_output_tokens: int | None
    """At least 1."""
    min_output_tokens: int | None
    """No end before this many tokens."""
    stop_strings: Sequence[str]
    """Text that ends the answer and is not part of it."""
    stop_token_ids: Sequence[int]
    """The model's token ids that end the answer, beside its own."""
    ignore_end_token: bool
    """Go on past the model's own end token."""
    json_schema: str | Mapping[str, Any] | None
    """The answer is JSON of this schema. At most one of json_schema, regex and choices."""
    regex: str | None
    """The whole answer matches this."""
    choices: Sequence[str] | None
    """The answer is one of these texts."""
    logprobs: bool
    """Tell the log-probability of each token."""
    top_logprob_count: int
    """Tell this many likeliest alternatives too; at most 20."""
    token_ids: bool
    """Tell the ids of the tokens."""


Messages = str | Message | Sequence[Message | Mapping[str, str]]
"""A user's text, or turns; a turn may be a mapping with "role" and "content"."""

ScoreText = str | tuple[str, str]
"""A text, or a pair: a query and what is compared with it."""
