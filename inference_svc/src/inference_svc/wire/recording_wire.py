"""What a replica once told, read back to the words inside: the other way round than `inference_wire` writes it."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from seam.inference.v1 import model_service_pb2 as model_pb
from seam.inference.v1 import session_pb2 as session_pb
from seam.inference.v1 import work_pb2 as work_pb

from inference_svc.errors import FieldViolation, SeamError
from inference_svc.requests import (
    Accepted,
    Event,
    Failed,
    Finished,
    FinishReason,
    ModelInfo,
    ModelLimits,
    PositionLogprobs,
    Score,
    Scores,
    Task,
    Timings,
    TokenLogprob,
    Tokens,
    Usage,
    Vector,
    Vectors,
)

_FINISH_REASONS: Mapping[int, FinishReason] = {
    work_pb.FINISH_REASON_UNSPECIFIED: FinishReason.NONE,
    work_pb.FINISH_REASON_STOP: FinishReason.STOP,
    work_pb.FINISH_REASON_STOP_STRING: FinishReason.STOP_STRING,
    work_pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}
_TASKS: Mapping[int, Task] = {
    model_pb.TASK_GENERATE: Task.GENERATE,
    model_pb.TASK_EMBED: Task.EMBED,
    model_pb.TASK_SCORE: Task.SCORE,
}
_PASSING = frozenset({code_pb2.CANCELLED, code_pb2.DEADLINE_EXCEEDED, code_pb2.UNAVAILABLE})


class RecordedFailure(SeamError):
    """A request's failure, told again as it was. `passing`: it was of that moment (a queue, a deadline, a cancel), and
    says nothing of what was asked."""

    def __init__(self, status: status_pb2.Status) -> None:
        info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        retry_after: float | None = None
        violations: list[FieldViolation] = []
        for detail in status.details:
            if detail.Unpack(retry):
                retry_after = _seconds(retry.retry_delay)
            elif detail.Unpack(bad):
                violations += [FieldViolation(one.field, one.description) for one in bad.field_violations]
            else:
                detail.Unpack(info)
        super().__init__(status.message, violations=violations, retry_after=retry_after)
        self.reason = info.reason or SeamError.reason
        self.passing = status.code in _PASSING or retry_after is not None


def read_news(frame: session_pb.SessionResponse) -> Iterator[tuple[int, Event]]:
    """All that a frame told of requests. ValueError where its columns do not fit one another."""
    columns, content = frame.tokens, frame.tokens.text.encode()
    id_at, text_at = 0, 0
    for request_id, count, size in zip(columns.request_ids, columns.id_counts, columns.text_byte_counts, strict=True):
        id_end, text_end = id_at + count, text_at + size
        yield request_id, Tokens(tuple(columns.ids[id_at:id_end]), content[text_at:text_end].decode())
        id_at, text_at = id_end, text_end
    for told in frame.events:
        yield told.request_id, _read_event(told)


def _read_event(told: session_pb.Event) -> Event:
    match told.WhichOneof("event"):
        case "accepted":
            return Accepted(
                told.accepted.input_token_count, told.accepted.seed if told.accepted.HasField("seed") else None
            )
        case "tokens":
            return _read_tokens(told.tokens)
        case "vectors":
            return Vectors(tuple(map(_read_vector, told.vectors.embeddings)))
        case "scores":
            return Scores(tuple(map(_read_score, told.scores.scores)))
        case "finished":
            return _read_finished(told.finished)
        case "failed":
            return Failed(RecordedFailure(told.failed))
        case other:
            raise ValueError(f"an event {other!r} is not known here")


def read_model(told: model_pb.Model) -> ModelInfo:
    """ValueError for a task that is not known here."""
    if told.task not in _TASKS:
        raise ValueError(f"model {told.name} has a task {told.task}, which is not known here")
    limits = told.limits
    return ModelInfo(
        name=told.name,
        task=_TASKS[told.task],
        source=told.source,
        architecture=told.architecture,
        limits=ModelLimits(
            limits.max_context_tokens, limits.max_output_tokens, limits.max_texts, limits.max_text_bytes
        ),
        device=told.device,
        dtype=told.dtype,
        vocabulary_size=told.vocabulary_size,
        dimension_count=told.dimension_count,
        labels=tuple(told.labels),
        notice=told.notice,
        unavailable_features=tuple(told.unavailable_features),
    )


def _read_tokens(told: work_pb.Tokens) -> Tokens:
    return Tokens(tuple(told.ids), told.text, _read_positions(told.logprobs), _read_positions(told.prompt_logprobs))


def _read_positions(told: Sequence[work_pb.PositionLogprobs]) -> tuple[PositionLogprobs, ...]:
    return tuple(PositionLogprobs(_read_logprob(one.chosen), tuple(map(_read_logprob, one.top))) for one in told)


def _read_logprob(told: work_pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(told.token_id, told.logprob, told.text)


def _read_vector(told: work_pb.Embedding) -> Vector:
    return Vector(told.index, np.array(told.values, np.float32), told.input_token_count, told.truncated)


def _read_score(told: work_pb.Score) -> Score:
    labels = tuple((one.label, one.score) for one in told.labels)
    return Score(told.index, labels, told.input_token_count, told.truncated)


def _read_finished(told: work_pb.Finished) -> Finished:
    usage, timings = told.usage, told.timings
    return Finished(
        _FINISH_REASONS[told.reason],
        Usage(usage.input_token_count, usage.output_token_count, usage.cached_token_count),
        Timings(_seconds(timings.queue), _seconds(timings.prefill), _seconds(timings.decode)),
        told.stop_string,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
