"""What comes back, as frozen values. Times are seconds."""

from dataclasses import dataclass
from enum import Enum


class Task(Enum):
    """What a model does."""

    UNKNOWN = "unknown"
    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"


class FinishReason(Enum):
    """Why an answer ended; UNKNOWN is a reason newer than this client."""

    UNKNOWN = "unknown"
    STOP = "stop"
    STOP_STRING = "stop_string"
    LENGTH = "length"


class ReplicaState(Enum):
    """Whether a replica is in use."""

    UNKNOWN = "unknown"
    CONNECTING = "connecting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Usage:
    """What was computed. Cached tokens are those of the prompt that did not have to be computed again."""

    input_token_count: int
    output_token_count: int
    cached_token_count: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went: waiting for the model, the prompt, first token to last; the whole as the server saw it."""

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability."""

    text: str
    logprob: float
    token_id: int


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """One position of the answer; `top` holds the likeliest tokens, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """The request is accepted. `notice` is something to show to people; `seed` is set where the answer is sampled."""

    request_id: str
    model: str
    input_token_count: int
    seed: int | None
    notice: str


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, in whole characters; `str(piece)` is its text."""

    text: str
    logprobs: tuple[PositionLogprobs, ...]
    token_ids: tuple[int, ...]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Citation:
    """A source of what was said: characters `start` up to `end` of the answer."""

    start: int
    end: int
    source_id: str
    quote: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of the answer; `stop_string` is the one met, empty when none was."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    stop_string: str


ChatEvent = Started | Text | Citation | Finished


@dataclass(frozen=True, slots=True)
class Prediction:
    """A whole answer."""

    text: str
    model: str
    reason: FinishReason
    usage: Usage
    timings: Timings
    notice: str


@dataclass(frozen=True, slots=True)
class Embedding:
    """One text's vector of length one: `values` is (dimension_count,), of float32 precision."""

    values: tuple[float, ...]
    input_token_count: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Embeddings:
    """In the order of the texts."""

    embeddings: tuple[Embedding, ...]
    model: str
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A probability, or a relevance in [0, 1] for models of one label."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Score:
    """Every label of one input, in the model's order."""

    labels: tuple[LabelScore, ...]
    input_token_count: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """In the order of the inputs."""

    scores: tuple[Score, ...]
    model: str
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Model:
    """A model under the name used in requests. `ready` is whether some replica can answer now."""

    name: str
    task: Task
    source: str
    max_context_tokens: int
    max_texts: int
    dimension_count: int
    labels: tuple[str, ...]
    notice: str
    ready: bool


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """Where a replica's model thread spent its seconds since its start; the sum is all of them."""

    computing_seconds: float
    no_work_seconds: float
    waiting_for_credits_seconds: float
    host_seconds: float
    loading_seconds: float


@dataclass(frozen=True, slots=True)
class WaitingByPriority:
    """Sequences."""

    interactive: int
    normal: int
    batch: int


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """One model on one replica. The three counts after the waits are since the replica's start."""

    model: str
    running_sequence_count: int
    waiting_sequence_count: int
    queued_token_count: int
    free_cache_token_count: int
    step_seconds: float
    predicted_wait_seconds: float
    output_token_count: int
    input_token_count: int
    finished_request_count: int
    waiting: WaitingByPriority


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica, as its last frame told; `address` is "host:port" or "in-process".

    `device_time` (None until told) and the counts of its models since the start are `totals_age_seconds` old."""

    address: str
    replica_id: str
    state: ReplicaState
    live_request_count: int
    models: tuple[ModelLoad, ...]
    device_time: DeviceTime | None
    totals_age_seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """The business server and every replica that it knows."""

    version: str
    uptime_seconds: float
    replicas: tuple[Replica, ...]
