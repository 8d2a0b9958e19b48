"""What may be asked of inference and what comes back, in the business's own words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Task(Enum):
    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """None leaves a setting neutral."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class StopConditions:
    max_output_tokens: int | None = None
    min_output_tokens: int | None = None
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
    token_ids: bool = False


class Truncation(Enum):
    REFUSE = "refuse"
    DROP_END = "drop_end"


class Priority(Enum):
    BATCH = "batch"
    NORMAL = "normal"
    INTERACTIVE = "interactive"


@dataclass(frozen=True, slots=True)
class Context:
    """What surrounds a request. `deadline` is a moment of the event loop's clock (`loop.time()`); None is no bound."""

    tenant: str = ""
    deadline: float | None = None
    priority: Priority = Priority.NORMAL
    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    stop: StopConditions = StopConditions()
    format: OutputFormat | None = None
    detail: OutputDetail = OutputDetail()


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    model: str
    texts: tuple[str, ...]
    truncation: Truncation = Truncation.REFUSE
    dimension_count: int | None = None
    prompt_name: str = ""


@dataclass(frozen=True, slots=True)
class ScoreInput:
    text: str
    text_pair: str | None = None


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    model: str
    inputs: tuple[ScoreInput, ...]
    truncation: Truncation = Truncation.REFUSE


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
    NONE = "none"
    STOP = "stop"
    STOP_STRING = "stop_string"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Usage:
    input_token_count: int = 0
    output_token_count: int = 0
    cached_token_count: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds. The first three as the replica measured them; `total` as this server saw the request."""

    queue: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Accepted:
    input_token_count: int
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    reason: FinishReason
    usage: Usage
    timings: Timings
    stop_string: str = ""


GenerationEvent = Accepted | Tokens | Finished


@dataclass(frozen=True, slots=True)
class Embedding:
    """`values` has `(dimension_count,)` numbers of float32 precision."""

    values: tuple[float, ...]
    input_token_count: int
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Embeddings:
    """In the order of the request's texts."""

    embeddings: tuple[Embedding, ...]
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class LabelScore:
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Score:
    labels: tuple[LabelScore, ...]
    input_token_count: int
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """In the order of the request's inputs."""

    scores: tuple[Score, ...]
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Model:
    """A model that some replica serves. `ready` is whether one can answer now."""

    name: str
    task: Task
    source: str
    max_context_tokens: int
    max_texts: int
    max_text_bytes: int
    dimension_count: int = 0
    labels: tuple[str, ...] = ()
    notice: str = ""
    ready: bool = True


class ReplicaState(Enum):
    CONNECTING = "connecting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """What a model did on a replica since the replica's start. `waiting` is by priority, the most urgent first."""

    output_token_count: int = 0
    input_token_count: int = 0
    finished_request_count: int = 0
    waiting: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """Seconds of a replica's model thread since its start, by cause."""

    computing: float = 0.0
    no_work: float = 0.0
    waiting_for_credits: float = 0.0
    host: float = 0.0
    loading: float = 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """As a replica told them `age` seconds ago."""

    device_time: DeviceTime
    models: Mapping[str, ModelTotals]
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelLoad:
    model: str
    running_sequence_count: int = 0
    waiting_sequence_count: int = 0
    queued_token_count: int = 0
    free_cache_token_count: int = 0
    step_duration: float = 0.0
    predicted_wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Replica:
    address: str
    replica_id: str
    state: ReplicaState
    live_request_count: int
    models: tuple[ModelLoad, ...]
    totals: Totals | None = None
