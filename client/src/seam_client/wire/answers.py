"""Reads the contract's answers into frozen values."""

from google.protobuf.duration_pb2 import Duration
from seam.business.v1 import (
    chat_service_pb2,
    conversation_pb2,
    embedding_service_pb2,
    operations_service_pb2,
    predict_service_pb2,
    score_service_pb2,
)

from seam_client.answers import (
    ChatEvent,
    Citation,
    DeviceTime,
    Embedding,
    Embeddings,
    Finished,
    FinishReason,
    LabelScore,
    Model,
    ModelLoad,
    PositionLogprobs,
    Prediction,
    Replica,
    ReplicaState,
    Score,
    Scores,
    Started,
    Status,
    Task,
    Text,
    Timings,
    TokenLogprob,
    Usage,
    WaitingByPriority,
)

# A value that a newer server may send and that is not here is read as UNKNOWN.
FINISH_REASONS = {
    conversation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    conversation_pb2.FINISH_REASON_STOP_STRING: FinishReason.STOP_STRING,
    conversation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}
TASKS = {
    operations_service_pb2.TASK_GENERATE: Task.GENERATE,
    operations_service_pb2.TASK_EMBED: Task.EMBED,
    operations_service_pb2.TASK_SCORE: Task.SCORE,
}
REPLICA_STATES = {
    operations_service_pb2.REPLICA_STATE_CONNECTING: ReplicaState.CONNECTING,
    operations_service_pb2.REPLICA_STATE_READY: ReplicaState.READY,
    operations_service_pb2.REPLICA_STATE_DRAINING: ReplicaState.DRAINING,
}


def chat_event(response: chat_service_pb2.ChatResponse) -> ChatEvent | None:
    """None for an event newer than this client: it is passed over."""
    match response.WhichOneof("event"):
        case "started":
            return _started(response.started)
        case "text":
            return _text(response.text)
        case "citation":
            told = response.citation
            return Citation(told.start, told.end, told.source_id, told.quote)
        case "finished":
            return _finished(response.finished)
        case _:
            return None


def prediction(response: predict_service_pb2.PredictResponse) -> Prediction:
    return Prediction(
        text=response.text,
        model=response.model,
        reason=FINISH_REASONS.get(response.reason, FinishReason.UNKNOWN),
        usage=_usage(response.usage),
        timings=_timings(response.timings),
        notice=response.notice,
    )


def embeddings(response: embedding_service_pb2.EmbedResponse) -> Embeddings:
    return Embeddings(
        embeddings=tuple(Embedding(tuple(e.values), e.input_token_count, e.truncated) for e in response.embeddings),
        model=response.model,
        usage=_usage(response.usage),
        timings=_timings(response.timings),
    )


def scores(response: score_service_pb2.ScoreResponse) -> Scores:
    return Scores(
        scores=tuple(
            Score(tuple(LabelScore(s.label, s.score) for s in told.labels), told.input_token_count, told.truncated)
            for told in response.scores
        ),
        model=response.model,
        usage=_usage(response.usage),
        timings=_timings(response.timings),
    )


def models(response: operations_service_pb2.ListModelsResponse) -> tuple[Model, ...]:
    return tuple(
        Model(
            name=told.name,
            task=TASKS.get(told.task, Task.UNKNOWN),
            source=told.source,
            max_context_tokens=told.max_context_tokens,
            max_texts=told.max_texts,
            dimension_count=told.dimension_count,
            labels=tuple(told.labels),
            notice=told.notice,
            ready=told.ready,
        )
        for told in response.models
    )


def status(response: operations_service_pb2.GetStatusResponse) -> Status:
    return Status(
        version=response.version,
        uptime_seconds=_seconds(response.uptime),
        replicas=tuple(_replica(told) for told in response.replicas),
    )


def _started(told: chat_service_pb2.Started) -> Started:
    return Started(
        request_id=told.request_id,
        model=told.model,
        input_token_count=told.input_token_count,
        seed=told.seed if told.HasField("seed") else None,
        notice=told.notice,
    )


def _text(told: chat_service_pb2.Text) -> Text:
    logprobs = tuple(
        PositionLogprobs(_logprob(position.chosen), tuple(_logprob(other) for other in position.top))
        for position in told.logprobs
    )
    return Text(told.text, logprobs, tuple(told.token_ids))


def _logprob(told: conversation_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(told.text, told.logprob, told.token_id)


def _finished(told: chat_service_pb2.Finished) -> Finished:
    return Finished(
        reason=FINISH_REASONS.get(told.reason, FinishReason.UNKNOWN),
        usage=_usage(told.usage),
        timings=_timings(told.timings),
        stop_string=told.stop_string,
    )


def _usage(told: conversation_pb2.Usage) -> Usage:
    return Usage(told.input_token_count, told.output_token_count, told.cached_token_count)


def _timings(told: conversation_pb2.Timings) -> Timings:
    return Timings(
        queue_seconds=_seconds(told.queue),
        prefill_seconds=_seconds(told.prefill),
        decode_seconds=_seconds(told.decode),
        total_seconds=_seconds(told.total),
    )


def _replica(told: operations_service_pb2.Replica) -> Replica:
    return Replica(
        address=told.address,
        replica_id=told.replica_id,
        state=REPLICA_STATES.get(told.state, ReplicaState.UNKNOWN),
        live_request_count=told.live_request_count,
        models=tuple(_load(load) for load in told.models),
        device_time=_device_time(told.device_time) if told.HasField("device_time") else None,
        totals_age_seconds=_seconds(told.totals_age),
    )


def _device_time(told: operations_service_pb2.DeviceTime) -> DeviceTime:
    return DeviceTime(
        computing_seconds=_seconds(told.computing),
        no_work_seconds=_seconds(told.no_work),
        waiting_for_credits_seconds=_seconds(told.waiting_for_credits),
        host_seconds=_seconds(told.host),
        loading_seconds=_seconds(told.loading),
    )


def _load(told: operations_service_pb2.ModelLoad) -> ModelLoad:
    return ModelLoad(
        model=told.model,
        running_sequence_count=told.running_sequence_count,
        waiting_sequence_count=told.waiting_sequence_count,
        queued_token_count=told.queued_token_count,
        free_cache_token_count=told.free_cache_token_count,
        step_seconds=_seconds(told.step_duration),
        predicted_wait_seconds=_seconds(told.predicted_wait),
        output_token_count=told.output_token_count,
        input_token_count=told.input_token_count,
        finished_request_count=told.finished_request_count,
        waiting=WaitingByPriority(told.waiting.interactive, told.waiting.normal, told.waiting.batch),
    )


def _seconds(told: Duration) -> float:
    return told.ToNanoseconds() / 1e9
