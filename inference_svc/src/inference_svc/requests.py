"""What is asked and what is answered, as the inside of this package speaks of it.

The wire room makes these from contract messages; admission turns a `Request` into a `Generation` or an `Encoding`,
which is checked, tokenised and ready to be computed; the engine answers with events.
Times are seconds of the engine's monotonic clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Task(Enum):
    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"


class Priority(IntEnum):
    """Higher goes first."""

    BATCH = 0
    NORMAL = 1
    INTERACTIVE = 2


# --- as asked: not yet checked against a model ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    messages: tuple[Message, ...]
    add_generation_prompt: bool = True


@dataclass(frozen=True, slots=True)
class TextPrompt:
    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """Neutral values everywhere: greedy, nothing kept out, nothing penalised. `seed` None asks for one to be drawn."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class StopConditions:
    max_output_tokens: int | None = None
    min_output_tokens: int = 0
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_end_token: bool = False


@dataclass(frozen=True, slots=True)
class JsonSchema:
    schema: str


@dataclass(frozen=True, slots=True)
class Regex:
    pattern: str


@dataclass(frozen=True, slots=True)
class Choice:
    texts: tuple[str, ...]


OutputFormat = JsonSchema | Regex | Choice


@dataclass(frozen=True, slots=True)
class OutputDetail:
    logprobs: bool = False
    top_logprob_count: int = 0
    prompt_logprobs: bool = False


class Truncation(Enum):
    REFUSE = "refuse"
    DROP_END = "drop_end"


class ScoreActivation(Enum):
    MODEL = "model"
    NONE = "none"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"


@dataclass(frozen=True, slots=True)
class GenerateWork:
    prompt: Prompt
    sampling: Sampling = Sampling()
    stop: StopConditions = StopConditions()
    format: OutputFormat | None = None
    detail: OutputDetail = OutputDetail()
    resumed_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class EmbedWork:
    texts: tuple[str, ...]
    truncation: Truncation = Truncation.REFUSE
    dimension_count: int | None = None
    normalize: bool = True
    prompt_name: str = ""


@dataclass(frozen=True, slots=True)
class ScoreInput:
    text: str
    text_pair: str | None = None


@dataclass(frozen=True, slots=True)
class ScoreWork:
    inputs: tuple[ScoreInput, ...]
    truncation: Truncation = Truncation.REFUSE
    activation: ScoreActivation = ScoreActivation.MODEL


Work = GenerateWork | EmbedWork | ScoreWork


@dataclass(frozen=True, slots=True)
class Context:
    """`first_token_deadline` and `deadline` are moments, not durations; None is no bound."""

    priority: Priority = Priority.NORMAL
    first_token_deadline: float | None = None
    deadline: float | None = None
    tenant: str = ""
    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived. `credits` None is no limit (generation only)."""

    model: str
    work: Work
    context: Context = Context()
    credits: int | None = None


# --- ready to be computed -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FormatReading:
    """Of ids read from the start of an answer, how many fit its format; whether the format is complete after those,
    and over: complete with nothing that could follow."""

    fitting: int
    is_complete: bool
    is_over: bool


class Grammar(Protocol):
    """A format compiled for one model. What more is in it is known to the model's rooms alone."""

    def read(self, token_ids: Sequence[int]) -> FormatReading: ...


class Grammars(Protocol):
    """Compiles formats for one model. Every method may be called from any thread, and may take long."""

    def compiled(self, output_format: OutputFormat) -> Grammar:
        """Raises InvalidField with the field, what is wrong, and where."""
        ...


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation that passed admission.

    `prompt_ids` is never empty. `resumed_ids` are output tokens that the reader already has: they are computed as part
    of the prompt and counted as output positions, and neither they nor their text is sent again.
    `end_token_ids` end the answer with reason STOP (the model's own unless ignored, and the request's).
    `max_output_tokens` counts resumed ids too, as in the undisturbed run, and fits the context with the prompt.
    `grammar` is the format compiled; `resumed_is_whole` tells that the resumed ids are all that it allows.
    """

    model: str
    context: Context
    credits: int | None
    prompt_ids: tuple[int, ...]
    resumed_ids: tuple[int, ...]
    sampling: Sampling  # seed always set
    end_token_ids: frozenset[int]
    stop_strings: tuple[str, ...]
    min_output_tokens: int
    max_output_tokens: int
    format: OutputFormat | None
    detail: OutputDetail
    grammar: Grammar | None = None
    resumed_is_whole: bool = False


@dataclass(frozen=True, slots=True)
class EncodedInput:
    """One text, or pair, of a request. `type_ids` is None where the model has none."""

    index: int
    token_ids: tuple[int, ...]
    type_ids: tuple[int, ...] | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Encoding:
    """An embedding or scoring request that passed admission; each input is a sequence of its own to the scheduler."""

    model: str
    context: Context
    inputs: tuple[EncodedInput, ...]
    work: EmbedWork | ScoreWork  # for what happens to a result: dimensions, normalising, activation


# --- answers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token_id: int
    logprob: float
    text: str


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


class FinishReason(Enum):
    NONE = "none"  # embedding and scoring
    STOP = "stop"
    STOP_STRING = "stop_string"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Usage:
    input_token_count: int
    output_token_count: int = 0
    cached_token_count: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds: accepted to first computed; to the first token (or a whole encoder pass); to the last."""

    queue: float
    prefill: float
    decode: float = 0.0


@dataclass(frozen=True, slots=True)
class Accepted:
    input_token_count: int
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[PositionLogprobs, ...] = ()
    prompt_logprobs: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Vector:
    index: int
    values: npt.NDArray[np.float32]  # (dimension_count,)
    input_token_count: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Vectors:
    vectors: tuple[Vector, ...]


@dataclass(frozen=True, slots=True)
class Score:
    index: int
    values: tuple[tuple[str, float], ...]  # (label, score), in the model's order
    input_token_count: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Scores:
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    reason: FinishReason
    usage: Usage
    timings: Timings
    stop_string: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    error: Exception  # a SeamError; anything else is a fault of ours and is told as INTERNAL_FAULT


Event = Accepted | Tokens | Vectors | Scores | Finished | Failed


# --- what a model is, and how busy ------------------------------------------------------------------------------------


class ModelState(Enum):
    LOADING = "loading"
    READY = "ready"
    SLEEPING = "sleeping"
    FAILED = "failed"
    WAKING = "waking"
    UNLOADING = "unloading"


@dataclass(frozen=True, slots=True)
class ModelLimits:
    max_context_tokens: int
    max_output_tokens: int
    max_texts: int
    max_text_bytes: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as it is served; the fields of seam.inference.v1.Model but its state, which changes."""

    name: str
    task: Task
    source: str
    architecture: str
    limits: ModelLimits
    device: str
    dtype: str
    vocabulary_size: int
    dimension_count: int = 0
    labels: tuple[str, ...] = ()
    score_activation: ScoreActivation = ScoreActivation.NONE  # what MODEL stands for; never MODEL itself
    notice: str = ""
    unavailable_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """How busy a model is, as of the last step. Durations in seconds."""

    model: str
    running_sequence_count: int = 0
    waiting_sequence_count: int = 0
    queued_token_count: int = 0
    free_cache_token_count: int = 0
    step_duration: float = 0.0
    predicted_wait: float = 0.0


Loads = Sequence[ModelLoad]


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """What a model did since the engine was made. `waiting` are sequences by priority, as of the last step."""

    model: str
    output_token_count: int = 0
    input_token_count: int = 0
    finished_request_count: int = 0
    waiting: tuple[int, ...] = ()
