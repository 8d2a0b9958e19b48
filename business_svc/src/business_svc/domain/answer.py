"""News of an answer, as a caller gets it: Started, then Text and Citation (any number), then Finished."""

from dataclasses import dataclass

from business_svc.domain.inference import Finished, PositionLogprobs


@dataclass(frozen=True, slots=True)
class Started:
    request_id: str
    model: str
    input_token_count: int
    seed: int | None = None
    notice: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """Whole characters; may be empty where log-probabilities or token ids were asked for."""

    text: str
    logprobs: tuple[PositionLogprobs, ...] = ()
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Citation:
    """`start` and `end` count characters of the answer."""

    start: int
    end: int
    source_id: str
    quote: str


AnswerEvent = Started | Text | Citation | Finished
