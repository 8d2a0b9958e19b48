"""seam.inference.v1 <-> the business's own words. The session beside it looks only at whose an event is."""

from dataclasses import dataclass, replace
from typing import assert_never

from google.protobuf.duration_pb2 import Duration
from seam.inference.v1 import model_service_pb2, session_pb2, work_pb2

from business_svc.domain.inference import (
    Accepted,
    Choice,
    Context,
    DeviceTime,
    Embedding,
    EmbedRequest,
    Finished,
    FinishReason,
    GenerateRequest,
    JsonSchema,
    LabelScore,
    Model,
    ModelLoad,
    ModelTotals,
    PositionLogprobs,
    Priority,
    Regex,
    Sampling,
    Score,
    ScoreRequest,
    StopConditions,
    Task,
    Timings,
    TokenLogprob,
    Tokens,
    Totals,
    Truncation,
    Usage,
)
from business_svc.errors import Reason, SeamError, bad_field
from business_svc.link.status_wire import error_of


@dataclass(frozen=True, slots=True)
class Vectors:
    """Some of a request's vectors, each with the index of its text."""

    embeddings: tuple[tuple[int, Embedding], ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """Some of a request's scores, each with the index of its input."""

    scores: tuple[tuple[int, Score], ...]


@dataclass(frozen=True, slots=True)
class Failed:
    error: SeamError


News = Accepted | Tokens | Vectors | Scored | Finished | Failed

_PRIORITIES = {
    Priority.BATCH: session_pb2.PRIORITY_BATCH,
    Priority.NORMAL: session_pb2.PRIORITY_NORMAL,
    Priority.INTERACTIVE: session_pb2.PRIORITY_INTERACTIVE,
}
_TRUNCATIONS = {
    Truncation.REFUSE: work_pb2.TRUNCATION_REFUSE,
    Truncation.DROP_END: work_pb2.TRUNCATION_DROP_END,
}
_FINISH_REASONS = {
    work_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    work_pb2.FINISH_REASON_STOP_STRING: FinishReason.STOP_STRING,
    work_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}
_ANSWERING = (  # a request wakes a model that sleeps, and waits for one that is waking
    model_service_pb2.MODEL_STATE_READY,
    model_service_pb2.MODEL_STATE_SLEEPING,
    model_service_pb2.MODEL_STATE_WAKING,
)
_TASKS = {
    model_service_pb2.TASK_GENERATE: Task.GENERATE,
    model_service_pb2.TASK_EMBED: Task.EMBED,
    model_service_pb2.TASK_SCORE: Task.SCORE,
}


# --- what is asked ----------------------------------------------------------------------------------------------------


def submit_of(
    request_id: int,
    request: GenerateRequest | EmbedRequest | ScoreRequest,
    context: Context,
    *,
    now: float,
    credits: int | None = None,
    output_token_ids: tuple[int, ...] = (),
) -> session_pb2.Submit:
    """`now` is of the clock of `context.deadline`; `output_token_ids` are what the reader already has."""
    submit = session_pb2.Submit(request_id=request_id, model=request.model, context=_context(context, now))
    if credits is not None:
        submit.initial_credits = credits
    match request:
        case GenerateRequest():
            _fill_generate(submit.generate, request)
            if output_token_ids:
                submit.generate.resume.output_token_ids.extend(output_token_ids)
        case EmbedRequest():
            submit.embed.texts.extend(request.texts)
            submit.embed.truncation = _TRUNCATIONS[request.truncation]
            submit.embed.prompt_name = request.prompt_name
            if request.dimension_count is not None:
                submit.embed.dimension_count = request.dimension_count
        case ScoreRequest():
            submit.score.truncation = _TRUNCATIONS[request.truncation]
            submit.score.inputs.extend(
                work_pb2.ScoreInput(text=one.text, text_pair=one.text_pair) for one in request.inputs
            )
        case _:
            assert_never(request)
    return submit


def _context(context: Context, now: float) -> session_pb2.RequestContext:
    message = session_pb2.RequestContext(priority=_PRIORITIES[context.priority], tenant_key=context.tenant)
    if context.deadline is not None:
        message.timeout.FromNanoseconds(max(1, int((context.deadline - now) * 1e9)))
    if context.traceparent:
        message.trace.traceparent = context.traceparent
        message.trace.tracestate = context.tracestate
    return message


def _fill_generate(work: work_pb2.GenerateWork, request: GenerateRequest) -> None:
    chat = work.prompt.chat
    chat.SetInParent()
    for message in request.messages:
        chat.messages.add(role=message.role, content=message.content)
    _fill_sampling(work.sampling, request.sampling)
    _fill_stop(work.stop, request.stop)
    match request.format:
        case None:
            pass
        case JsonSchema(schema):
            work.format.json_schema = schema
        case Regex(pattern):
            work.format.regex = pattern
        case Choice(texts):
            work.format.choice.texts.extend(texts)
    if request.detail.logprobs or request.detail.top_logprob_count:
        work.detail.logprobs = request.detail.logprobs
        work.detail.top_logprob_count = request.detail.top_logprob_count


_OPTIONAL_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


def _fill_sampling(message: work_pb2.Sampling, sampling: Sampling) -> None:
    for name in _OPTIONAL_SAMPLING:
        value = getattr(sampling, name)
        if value is not None:
            _set_number(message, name, value, f"sampling.{name}")
    for token_id, bias in sampling.logit_bias.items():
        try:
            message.logit_bias[token_id] = bias
        except (ValueError, OverflowError) as error:
            raise _not_a_number(f"sampling.logit_bias[{token_id}]", bias) from error


def _fill_stop(message: work_pb2.StopConditions, stop: StopConditions) -> None:
    for name in ("max_output_tokens", "min_output_tokens"):
        value = getattr(stop, name)
        if value is not None:
            _set_number(message, name, value, f"stop.{name}")
    message.stop_strings.extend(stop.stop_strings)
    for index, token_id in enumerate(stop.stop_token_ids):
        try:
            message.stop_token_ids.append(token_id)
        except (ValueError, OverflowError) as error:
            raise _not_a_number(f"stop.stop_token_ids[{index}]", token_id) from error
    message.ignore_end_token = stop.ignore_end_token


def _set_number(message: work_pb2.Sampling | work_pb2.StopConditions, name: str, value: float, path: str) -> None:
    try:
        setattr(message, name, value)
    except (ValueError, OverflowError) as error:  # a negative or huge number in an unsigned field
        raise _not_a_number(path, value) from error


def _not_a_number(path: str, value: float) -> SeamError:
    return bad_field(f"generate.{path}", f"{value} is outside what this field can hold")


# --- what is answered -------------------------------------------------------------------------------------------------


def news_of(event: session_pb2.Event) -> News:
    match event.WhichOneof("event"):
        case "tokens":
            return _tokens(event.tokens)
        case "accepted":
            seed = event.accepted.seed if event.accepted.HasField("seed") else None
            return Accepted(event.accepted.input_token_count, seed)
        case "vectors":
            return Vectors(tuple((one.index, _embedding(one)) for one in event.vectors.embeddings))
        case "scores":
            return Scored(tuple((one.index, _score(one)) for one in event.scores.scores))
        case "finished":
            return _finished(event.finished)
        case "failed":
            return Failed(error_of(event.failed))
        case _:
            return Failed(SeamError(Reason.INTERNAL_FAULT, "the replica sent an event that this server does not know"))


class ColumnsBroken(Exception):
    """A frame's token columns do not fit one another; says how."""


def columns_of(columns: session_pb2.TokenColumns) -> list[tuple[int, Tokens]]:
    """By entry. Raises ColumnsBroken."""
    counts, sizes = columns.id_counts, columns.text_byte_counts
    ids, text = tuple(columns.ids), columns.text
    content = None if text.isascii() else text.encode()
    if len(counts) != len(columns.request_ids) or len(sizes) != len(columns.request_ids):
        raise ColumnsBroken("token columns of different lengths")
    if sum(counts) != len(ids) or sum(sizes) != len(text if content is None else content):
        raise ColumnsBroken("token columns whose counts are not what is there")
    news, id_at, text_at = [], 0, 0
    try:
        for request_id, count, size in zip(columns.request_ids, counts, sizes, strict=True):
            id_end, text_end = id_at + count, text_at + size
            piece = text[text_at:text_end] if content is None else content[text_at:text_end].decode()
            news.append((request_id, Tokens(ids[id_at:id_end], piece)))
            id_at, text_at = id_end, text_end
    except UnicodeDecodeError:
        raise ColumnsBroken("a token column's text is cut within a character") from None
    return news


def _tokens(message: work_pb2.Tokens) -> Tokens:
    logprobs = tuple(_position(one) for one in message.logprobs) if message.logprobs else ()
    return Tokens(tuple(message.ids), message.text, logprobs)


def _position(message: work_pb2.PositionLogprobs) -> PositionLogprobs:
    return PositionLogprobs(_logprob(message.chosen), tuple(_logprob(one) for one in message.top))


def _logprob(message: work_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(message.token_id, message.logprob, message.text)


def _embedding(message: work_pb2.Embedding) -> Embedding:
    return Embedding(tuple(message.values), message.input_token_count, message.truncated)


def _score(message: work_pb2.Score) -> Score:
    labels = tuple(LabelScore(one.label, one.score) for one in message.labels)
    return Score(labels, message.input_token_count, message.truncated)


def _finished(message: work_pb2.Finished) -> Finished:
    usage, timings = message.usage, message.timings
    return Finished(
        _FINISH_REASONS.get(message.reason, FinishReason.NONE),
        Usage(usage.input_token_count, usage.output_token_count, usage.cached_token_count),
        Timings(_seconds(timings.queue), _seconds(timings.prefill), _seconds(timings.decode)),
        message.stop_string,
    )


def _seconds(duration: Duration) -> float:
    """Never negative: no wait and no work is."""
    return max(0.0, duration.seconds + duration.nanos / 1e9)


# --- who answers, and how busy it is ----------------------------------------------------------------------------------


def model_of(message: model_service_pb2.Model) -> Model | None:
    """None for a task that this server does not know: it cannot ask for it either."""
    task = _TASKS.get(message.task)
    if task is None:
        return None
    return Model(
        name=message.name,
        task=task,
        source=message.source,
        max_context_tokens=message.limits.max_context_tokens,
        max_texts=message.limits.max_texts,
        max_text_bytes=message.limits.max_text_bytes,
        dimension_count=message.dimension_count,
        labels=tuple(message.labels),
        notice=message.notice,
        ready=message.state in _ANSWERING,
    )


def load_of(message: session_pb2.ModelLoad) -> ModelLoad:
    return ModelLoad(
        model=message.model,
        running_sequence_count=message.running_sequence_count,
        waiting_sequence_count=message.waiting_sequence_count,
        queued_token_count=message.queued_token_count,
        free_cache_token_count=message.free_cache_token_count,
        step_duration=_seconds(message.step_duration),
        predicted_wait=_seconds(message.predicted_wait),
    )


def totals_of(message: session_pb2.Totals, age: float) -> Totals:
    spent = message.device_time
    return Totals(
        DeviceTime(
            computing=_seconds(spent.computing),
            no_work=_seconds(spent.no_work),
            waiting_for_credits=_seconds(spent.waiting_for_credits),
            host=_seconds(spent.host),
            loading=_seconds(spent.loading),
        ),
        {
            one.model: ModelTotals(
                output_token_count=one.output_token_count,
                input_token_count=one.input_token_count,
                finished_request_count=one.finished_request_count,
                waiting=(one.waiting.interactive, one.waiting.normal, one.waiting.batch),
            )
            for one in message.models
        },
        age,
    )


def unready(model: Model) -> Model:
    """The same model when nobody can answer for it now."""
    return replace(model, ready=False)
