"""seam.inference.v1 to the words inside and back; nothing else reads or writes the contract's fields.

Reading raises the SeamError of the field that makes no sense by itself (a oneof not set, an unknown enum value, an
impossible duration); whether a value suits the model is admission's to say.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from seam.inference.v1 import inference_service_pb2 as service_pb
from seam.inference.v1 import model_service_pb2 as model_pb
from seam.inference.v1 import session_pb2 as session_pb
from seam.inference.v1 import work_pb2 as work_pb

from inference_svc.catalogue import CatalogueEntry
from inference_svc.errors import DeadlineExpired, InvalidField, TextEmpty
from inference_svc.requests import (
    Accepted,
    ChatPrompt,
    Choice,
    Context,
    EmbedWork,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerateWork,
    JsonSchema,
    Loads,
    Message,
    ModelState,
    ModelTotals,
    OutputDetail,
    OutputFormat,
    PositionLogprobs,
    Priority,
    Prompt,
    Regex,
    Request,
    Sampling,
    Score,
    ScoreActivation,
    ScoreInput,
    Scores,
    ScoreWork,
    StopConditions,
    Task,
    TextPrompt,
    Timings,
    TokenPrompt,
    Tokens,
    Truncation,
    Usage,
    Vector,
    Vectors,
    Work,
)
from inference_svc.wire.status_wire import duration_of, status_of

_PRIORITIES: Mapping[int, Priority] = {
    session_pb.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    session_pb.PRIORITY_BATCH: Priority.BATCH,
    session_pb.PRIORITY_NORMAL: Priority.NORMAL,
    session_pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
}
_TRUNCATIONS: Mapping[int, Truncation] = {
    work_pb.TRUNCATION_UNSPECIFIED: Truncation.REFUSE,
    work_pb.TRUNCATION_REFUSE: Truncation.REFUSE,
    work_pb.TRUNCATION_DROP_END: Truncation.DROP_END,
}
_ACTIVATIONS: Mapping[int, ScoreActivation] = {
    work_pb.SCORE_ACTIVATION_UNSPECIFIED: ScoreActivation.MODEL,
    work_pb.SCORE_ACTIVATION_NONE: ScoreActivation.NONE,
    work_pb.SCORE_ACTIVATION_SIGMOID: ScoreActivation.SIGMOID,
    work_pb.SCORE_ACTIVATION_SOFTMAX: ScoreActivation.SOFTMAX,
}
_FINISH_REASONS: Mapping[FinishReason, work_pb.FinishReason.ValueType] = {
    FinishReason.NONE: work_pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: work_pb.FINISH_REASON_STOP,
    FinishReason.STOP_STRING: work_pb.FINISH_REASON_STOP_STRING,
    FinishReason.LENGTH: work_pb.FINISH_REASON_LENGTH,
}
_TASKS: Mapping[Task, model_pb.Task.ValueType] = {
    Task.GENERATE: model_pb.TASK_GENERATE,
    Task.EMBED: model_pb.TASK_EMBED,
    Task.SCORE: model_pb.TASK_SCORE,
}
_STATES: Mapping[ModelState, model_pb.ModelState.ValueType] = {
    ModelState.LOADING: model_pb.MODEL_STATE_LOADING,
    ModelState.READY: model_pb.MODEL_STATE_READY,
    ModelState.SLEEPING: model_pb.MODEL_STATE_SLEEPING,
    ModelState.FAILED: model_pb.MODEL_STATE_FAILED,
    ModelState.WAKING: model_pb.MODEL_STATE_WAKING,
    ModelState.UNLOADING: model_pb.MODEL_STATE_UNLOADING,
}
Word = TypeVar("Word")
_MAX_DURATION_SECONDS = 315_576_000_000  # google.protobuf.Duration's own limit
_VALUES_TAG = b"\x12"  # Embedding.values: field 2, length-delimited (packed)


# --- what is asked ---------------------------------------------------------------------------------------------------


def read_submit(submit: session_pb.Submit, now: float) -> Request:
    """A session's request; `now` is of the engine's clock."""
    allowance = submit.initial_credits if submit.HasField("initial_credits") else None
    return Request(submit.model, read_work(submit), read_context(submit.context, now), allowance)


def read_work(submit: session_pb.Submit) -> Work:
    match submit.WhichOneof("work"):
        case "generate":
            return read_generate_work(submit.generate)
        case "embed":
            return read_embed_work(submit.embed)
        case "score":
            return read_score_work(submit.score)
        case _:
            raise InvalidField.of_field("work", "one of generate, embed and score must be set")


def read_generate_work(work: work_pb.GenerateWork) -> GenerateWork:
    return GenerateWork(
        prompt=read_prompt(work.prompt),
        sampling=_read_sampling(work.sampling) if work.HasField("sampling") else Sampling(),
        stop=_read_stop(work.stop) if work.HasField("stop") else StopConditions(),
        format=_read_format(work.format) if work.HasField("format") else None,
        detail=_read_detail(work.detail) if work.HasField("detail") else OutputDetail(),
        resumed_ids=tuple(work.resume.output_token_ids) if work.HasField("resume") else None,
    )


def read_embed_work(work: work_pb.EmbedWork) -> EmbedWork:
    return EmbedWork(
        texts=tuple(work.texts),
        truncation=_known(_TRUNCATIONS, work.truncation, "work.truncation"),
        dimension_count=work.dimension_count if work.HasField("dimension_count") else None,
        normalize=work.normalize if work.HasField("normalize") else True,
        prompt_name=work.prompt_name,
    )


def read_score_work(work: work_pb.ScoreWork) -> ScoreWork:
    return ScoreWork(
        inputs=tuple(
            ScoreInput(given.text, given.text_pair if given.HasField("text_pair") else None) for given in work.inputs
        ),
        truncation=_known(_TRUNCATIONS, work.truncation, "work.truncation"),
        activation=_known(_ACTIVATIONS, work.activation, "work.activation"),
    )


def read_prompt(prompt: work_pb.Prompt, field: str = "work.prompt") -> Prompt:
    match prompt.WhichOneof("prompt"):
        case "chat":
            chat = prompt.chat
            return ChatPrompt(
                messages=tuple(Message(message.role, message.content) for message in chat.messages),
                add_generation_prompt=chat.add_generation_prompt if chat.HasField("add_generation_prompt") else True,
            )
        case "text":
            return TextPrompt(prompt.text)
        case "tokens":
            return TokenPrompt(tuple(prompt.tokens.ids))
        case _:
            raise TextEmpty.of_field(field, "one of chat, text and tokens must be set")


def read_context(context: session_pb.RequestContext, now: float, call_seconds: float | None = None) -> Context:
    """Durations become moments. `call_seconds` is what the transport's own deadline leaves: the earlier holds."""
    deadline = _moment(context, "timeout", now)
    if call_seconds is not None:
        deadline = now + call_seconds if deadline is None else min(deadline, now + call_seconds)
    return Context(
        priority=_known(_PRIORITIES, context.priority, "context.priority"),
        first_token_deadline=_moment(context, "first_token_timeout", now),
        deadline=deadline,
        tenant=context.tenant_key,
        traceparent=context.trace.traceparent,
        tracestate=context.trace.tracestate,
    )


def _read_sampling(sampling: work_pb.Sampling) -> Sampling:
    neutral = Sampling()
    return Sampling(
        temperature=sampling.temperature if sampling.HasField("temperature") else neutral.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p if sampling.HasField("top_p") else neutral.top_p,
        min_p=sampling.min_p,
        repetition_penalty=(
            sampling.repetition_penalty if sampling.HasField("repetition_penalty") else neutral.repetition_penalty
        ),
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
        seed=sampling.seed if sampling.HasField("seed") else None,
    )


def _read_stop(stop: work_pb.StopConditions) -> StopConditions:
    return StopConditions(
        max_output_tokens=stop.max_output_tokens if stop.HasField("max_output_tokens") else None,
        min_output_tokens=stop.min_output_tokens,
        stop_strings=tuple(stop.stop_strings),
        stop_token_ids=tuple(stop.stop_token_ids),
        ignore_end_token=stop.ignore_end_token,
    )


def _read_format(output_format: work_pb.OutputFormat) -> OutputFormat | None:
    match output_format.WhichOneof("format"):
        case "json_schema":
            return JsonSchema(output_format.json_schema)
        case "regex":
            return Regex(output_format.regex)
        case "choice":
            return Choice(tuple(output_format.choice.texts))
        case _:
            return None


def _read_detail(detail: work_pb.OutputDetail) -> OutputDetail:
    return OutputDetail(detail.logprobs, detail.top_logprob_count, detail.prompt_logprobs)


def _moment(context: session_pb.RequestContext, name: str, now: float) -> float | None:
    if not context.HasField(name):  # type: ignore[arg-type]  # the stub lists names as literals
        return None
    duration: Duration = getattr(context, name)
    seconds, nanos = duration.seconds, duration.nanos
    if abs(seconds) > _MAX_DURATION_SECONDS or abs(nanos) > 999_999_999 or seconds * nanos < 0:
        raise InvalidField.of_field(f"context.{name}", "is no valid duration")
    if seconds < 0 or nanos < 0:
        raise InvalidField.of_field(f"context.{name}", "must not be negative")
    if not seconds and not nanos:
        raise DeadlineExpired(f"context.{name}: no time is left")
    return now + seconds + nanos / 1e9


def _known(words: Mapping[int, Word], value: int, field: str) -> Word:
    word = words.get(value)
    if word is None:
        raise InvalidField.of_field(field, f"{value} is no value of this enum")
    return word


# --- what is told ----------------------------------------------------------------------------------------------------


def write_events(request_id: int, events: Iterable[Event], frame: session_pb.SessionResponse) -> None:
    """Adds one request's news to a frame; tokens that follow one another become one event."""
    tokens: work_pb.Tokens | None = None
    for event in events:
        if isinstance(event, Tokens):
            if tokens is None:
                tokens = frame.events.add(request_id=request_id).tokens
            _add_tokens(tokens, event)
        else:
            tokens = None
            _write_event(event, frame.events.add(request_id=request_id))


def are_plain_tokens(events: Sequence[Event]) -> bool:
    """Whether columns can tell it all."""
    return all(isinstance(event, Tokens) and not event.logprobs and not event.prompt_logprobs for event in events)


class TokenColumns:
    """Gathers what goes into a frame's columns; filled in one go, since a message's fields are slow to touch."""

    def __init__(self) -> None:
        self._request_ids: list[int] = []
        self._id_counts: list[int] = []
        self._text_byte_counts: list[int] = []
        self._ids: list[int] = []
        self._texts: list[str] = []

    def add(self, request_id: int, events: Sequence[Event]) -> None:
        """`events` are plain tokens."""
        ids, text = _joined(events)
        self._request_ids.append(request_id)
        self._id_counts.append(len(ids))
        self._text_byte_counts.append(len(text) if text.isascii() else len(text.encode()))
        self._ids.extend(ids)
        self._texts.append(text)

    def write(self, frame: session_pb.SessionResponse) -> None:
        if self._request_ids:
            columns = frame.tokens
            columns.request_ids.extend(self._request_ids)
            columns.id_counts.extend(self._id_counts)
            columns.text_byte_counts.extend(self._text_byte_counts)
            columns.ids.extend(self._ids)
            columns.text = "".join(self._texts)


def _joined(events: Sequence[Event]) -> tuple[Sequence[int], str]:
    tokens = [event for event in events if isinstance(event, Tokens)]
    if len(tokens) == 1:
        return tokens[0].ids, tokens[0].text
    return [one for event in tokens for one in event.ids], "".join(event.text for event in tokens)


def write_tokens(event: Tokens) -> work_pb.Tokens:
    tokens = work_pb.Tokens()
    _add_tokens(tokens, event)
    return tokens


def write_accepted(event: Accepted) -> session_pb.Accepted:
    return session_pb.Accepted(input_token_count=event.input_token_count, seed=event.seed)


def write_finished(event: Finished) -> work_pb.Finished:
    return work_pb.Finished(
        reason=_FINISH_REASONS[event.reason],
        usage=write_usage(event.usage),
        timings=write_timings(event.timings),
        stop_string=event.stop_string,
    )


def write_vector(vector: Vector) -> work_pb.Embedding:
    """The values are written as the bytes they are on the wire: ten times faster than number by number."""
    values = vector.values.astype("<f4", copy=False).tobytes()
    embedding = work_pb.Embedding.FromString(_VALUES_TAG + _varint(len(values)) + values)
    embedding.index = vector.index
    embedding.input_token_count = vector.input_token_count
    embedding.truncated = vector.truncated
    return embedding


def write_score(score: Score) -> work_pb.Score:
    return work_pb.Score(
        index=score.index,
        labels=[work_pb.LabelScore(label=label, score=value) for label, value in score.values],
        input_token_count=score.input_token_count,
        truncated=score.truncated,
    )


def write_usage(usage: Usage) -> work_pb.Usage:
    return work_pb.Usage(
        input_token_count=usage.input_token_count,
        output_token_count=usage.output_token_count,
        cached_token_count=usage.cached_token_count,
    )


def write_timings(timings: Timings) -> work_pb.Timings:
    return work_pb.Timings(
        queue=duration_of(timings.queue), prefill=duration_of(timings.prefill), decode=duration_of(timings.decode)
    )


def write_load(loads: Loads, *, draining: bool) -> session_pb.Load:
    state = session_pb.REPLICA_STATE_DRAINING if draining else session_pb.REPLICA_STATE_READY
    return session_pb.Load(
        state=state,
        models=[
            session_pb.ModelLoad(
                model=load.model,
                running_sequence_count=load.running_sequence_count,
                waiting_sequence_count=load.waiting_sequence_count,
                queued_token_count=load.queued_token_count,
                free_cache_token_count=load.free_cache_token_count,
                step_duration=duration_of(load.step_duration),
                predicted_wait=duration_of(load.predicted_wait),
            )
            for load in loads
        ],
    )


def write_totals(totals: Sequence[ModelTotals], spent: Mapping[str, float]) -> session_pb.Totals:
    """`spent` are seconds by cause."""
    return session_pb.Totals(
        device_time=session_pb.DeviceTime(**{cause: duration_of(seconds) for cause, seconds in spent.items()}),
        models=[
            session_pb.ModelTotals(
                model=one.model,
                output_token_count=one.output_token_count,
                input_token_count=one.input_token_count,
                finished_request_count=one.finished_request_count,
                waiting=session_pb.WaitingByPriority(
                    **{priority.name.lower(): count for priority, count in zip(Priority, one.waiting, strict=True)}
                ),
            )
            for one in totals
        ],
    )


def write_model(entry: CatalogueEntry) -> model_pb.Model:
    info, limits = entry.info, entry.info.limits
    return model_pb.Model(
        name=info.name,
        task=_TASKS[info.task],
        source=info.source,
        architecture=info.architecture,
        state=_STATES[entry.state],
        limits=model_pb.ModelLimits(
            max_context_tokens=limits.max_context_tokens,
            max_output_tokens=limits.max_output_tokens,
            max_texts=limits.max_texts,
            max_text_bytes=limits.max_text_bytes,
        ),
        device=info.device,
        dtype=info.dtype,
        dimension_count=info.dimension_count,
        labels=info.labels,
        vocabulary_size=info.vocabulary_size,
        notice=info.notice,
        unavailable_features=info.unavailable_features,
    )


def write_embed_response(vectors: Sequence[Vector], finished: Finished) -> service_pb.EmbedResponse:
    ordered = sorted(vectors, key=lambda vector: vector.index)
    return service_pb.EmbedResponse(
        embeddings=map(write_vector, ordered),
        usage=write_usage(finished.usage),
        timings=write_timings(finished.timings),
    )


def write_score_response(scores: Sequence[Score], finished: Finished) -> service_pb.ScoreResponse:
    ordered = sorted(scores, key=lambda score: score.index)
    return service_pb.ScoreResponse(
        scores=map(write_score, ordered), usage=write_usage(finished.usage), timings=write_timings(finished.timings)
    )


def _write_event(event: Event, told: session_pb.Event) -> None:
    match event:
        case Accepted():
            told.accepted.CopyFrom(write_accepted(event))
        case Vectors(vectors):
            told.vectors.embeddings.extend(map(write_vector, vectors))
        case Scores(scores):
            told.scores.scores.extend(map(write_score, scores))
        case Finished():
            told.finished.CopyFrom(write_finished(event))
        case Failed(error):
            told.failed.CopyFrom(status_of(error))
        case Tokens():
            _add_tokens(told.tokens, event)


def _add_tokens(told: work_pb.Tokens, event: Tokens) -> None:
    told.ids.extend(event.ids)
    told.text += event.text
    if event.logprobs:
        told.logprobs.extend(map(_write_position, event.logprobs))
    if event.prompt_logprobs:
        told.prompt_logprobs.extend(map(_write_position, event.prompt_logprobs))


def _write_position(position: PositionLogprobs) -> work_pb.PositionLogprobs:
    chosen = position.chosen
    return work_pb.PositionLogprobs(
        chosen=work_pb.TokenLogprob(token_id=chosen.token_id, logprob=chosen.logprob, text=chosen.text),
        top=[work_pb.TokenLogprob(token_id=one.token_id, logprob=one.logprob, text=one.text) for one in position.top],
    )


def _varint(number: int) -> bytes:
    """Base-128, least significant group first (protobuf encoding)."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
