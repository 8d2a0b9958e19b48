"""seam.business.v1 to the business's own words and back; nothing else translates."""

from google.protobuf.duration_pb2 import Duration
from seam.business.v1 import (
    chat_service_pb2,
    conversation_pb2,
    embedding_service_pb2,
    operations_service_pb2,
    predict_service_pb2,
    score_service_pb2,
)

from business_svc.domain import answer, inference
from business_svc.domain.checking import check_count
from business_svc.errors import Reason, bad_field
from business_svc.usecases.answering import Answer
from business_svc.usecases.operations import ModelPage, Status
from business_svc.usecases.predicting import PredictRequest

_TRUNCATIONS = {
    embedding_service_pb2.TRUNCATION_UNSPECIFIED: inference.Truncation.REFUSE,
    embedding_service_pb2.TRUNCATION_REFUSE: inference.Truncation.REFUSE,
    embedding_service_pb2.TRUNCATION_DROP_END: inference.Truncation.DROP_END,
}
_FINISH_REASONS = {
    inference.FinishReason.NONE: conversation_pb2.FINISH_REASON_UNSPECIFIED,
    inference.FinishReason.STOP: conversation_pb2.FINISH_REASON_STOP,
    inference.FinishReason.STOP_STRING: conversation_pb2.FINISH_REASON_STOP_STRING,
    inference.FinishReason.LENGTH: conversation_pb2.FINISH_REASON_LENGTH,
}
_TASKS = {
    inference.Task.GENERATE: operations_service_pb2.TASK_GENERATE,
    inference.Task.EMBED: operations_service_pb2.TASK_EMBED,
    inference.Task.SCORE: operations_service_pb2.TASK_SCORE,
}
_REPLICA_STATES = {
    inference.ReplicaState.CONNECTING: operations_service_pb2.REPLICA_STATE_CONNECTING,
    inference.ReplicaState.READY: operations_service_pb2.REPLICA_STATE_READY,
    inference.ReplicaState.DRAINING: operations_service_pb2.REPLICA_STATE_DRAINING,
}


# --- requests ---------------------------------------------------------------------------------------------------------


def chat_request(message: chat_service_pb2.ChatRequest) -> inference.GenerateRequest:
    """Raises INPUT_TOO_LONG where the messages are too many."""
    check_count("messages", len(message.messages), Reason.INPUT_TOO_LONG)
    return inference.GenerateRequest(
        model=message.model,
        messages=tuple(inference.Message(turn.role, turn.content) for turn in message.messages),
        sampling=_sampling(message.sampling),
        stop=_stop(message.stop),
        format=_format(message.format),
        detail=inference.OutputDetail(
            message.detail.logprobs, message.detail.top_logprob_count, message.detail.token_ids
        ),
    )


def _sampling(message: conversation_pb2.Sampling) -> inference.Sampling:
    return inference.Sampling(
        temperature=message.temperature if message.HasField("temperature") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        min_p=message.min_p if message.HasField("min_p") else None,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else None,
        presence_penalty=message.presence_penalty if message.HasField("presence_penalty") else None,
        frequency_penalty=message.frequency_penalty if message.HasField("frequency_penalty") else None,
        logit_bias=dict(message.logit_bias),
        seed=message.seed if message.HasField("seed") else None,
    )


def _stop(message: conversation_pb2.StopConditions) -> inference.StopConditions:
    return inference.StopConditions(
        max_output_tokens=message.max_output_tokens if message.HasField("max_output_tokens") else None,
        min_output_tokens=message.min_output_tokens if message.HasField("min_output_tokens") else None,
        stop_strings=tuple(message.stop_strings),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_end_token=message.ignore_end_token,
    )


def _format(message: conversation_pb2.OutputFormat) -> inference.OutputFormat | None:
    match message.WhichOneof("format"):
        case "json_schema":
            return inference.JsonSchema(message.json_schema)
        case "regex":
            return inference.Regex(message.regex)
        case "choice":
            return inference.Choice(tuple(message.choice.texts))
        case _:
            return None


def predict_request(message: predict_service_pb2.PredictRequest) -> PredictRequest:
    most = message.max_output_tokens if message.HasField("max_output_tokens") else None
    return PredictRequest(message.text, most)


def embed_request(message: embedding_service_pb2.EmbedRequest) -> inference.EmbedRequest:
    """Raises INVALID_FIELD, TOO_MANY_TEXTS."""
    check_count("texts", len(message.texts))
    return inference.EmbedRequest(
        model=message.model,
        texts=tuple(message.texts),
        truncation=_truncation(message.truncation),
        dimension_count=message.dimension_count if message.HasField("dimension_count") else None,
        prompt_name=message.prompt_name,
    )


def score_request(message: score_service_pb2.ScoreRequest) -> inference.ScoreRequest:
    """Raises INVALID_FIELD, TOO_MANY_TEXTS."""
    check_count("inputs", len(message.inputs))
    inputs = (
        inference.ScoreInput(scored.text, scored.text_pair if scored.HasField("text_pair") else None)
        for scored in message.inputs
    )
    return inference.ScoreRequest(message.model, tuple(inputs), _truncation(message.truncation))


def _truncation(value: embedding_service_pb2.Truncation.ValueType) -> inference.Truncation:
    found = _TRUNCATIONS.get(value)
    if found is None:
        raise bad_field("truncation", f"must be one of the contract's values, was {value}")
    return found


# --- answers ----------------------------------------------------------------------------------------------------------


def chat_response(event: answer.AnswerEvent) -> chat_service_pb2.ChatResponse:
    match event:
        case answer.Started(request_id, model, input_token_count, seed, notice):
            started = chat_service_pb2.Started(
                request_id=request_id, model=model, input_token_count=input_token_count, seed=seed, notice=notice
            )
            return chat_service_pb2.ChatResponse(started=started)
        case answer.Text(text, logprobs, token_ids):
            piece = chat_service_pb2.Text(
                text=text, logprobs=[_position(position) for position in logprobs], token_ids=token_ids
            )
            return chat_service_pb2.ChatResponse(text=piece)
        case answer.Citation(start, end, source_id, quote):
            citation = chat_service_pb2.Citation(start=start, end=end, source_id=source_id, quote=quote)
            return chat_service_pb2.ChatResponse(citation=citation)
        case inference.Finished(reason, usage, timings, stop_string):
            finished = chat_service_pb2.Finished(
                reason=_FINISH_REASONS[reason], usage=_usage(usage), timings=_timings(timings), stop_string=stop_string
            )
            return chat_service_pb2.ChatResponse(finished=finished)


def predict_response(whole: Answer) -> predict_service_pb2.PredictResponse:
    return predict_service_pb2.PredictResponse(
        text=whole.text,
        model=whole.started.model,
        reason=_FINISH_REASONS[whole.finished.reason],
        usage=_usage(whole.finished.usage),
        timings=_timings(whole.finished.timings),
        notice=whole.started.notice,
    )


def embed_response(model: str, embeddings: inference.Embeddings) -> embedding_service_pb2.EmbedResponse:
    response = embedding_service_pb2.EmbedResponse(
        model=model, usage=_usage(embeddings.usage), timings=_timings(embeddings.timings)
    )
    for embedding in embeddings.embeddings:
        response.embeddings.add(
            values=embedding.values, input_token_count=embedding.input_token_count, truncated=embedding.truncated
        )
    return response


def score_response(model: str, scores: inference.Scores) -> score_service_pb2.ScoreResponse:
    response = score_service_pb2.ScoreResponse(
        model=model, usage=_usage(scores.usage), timings=_timings(scores.timings)
    )
    for score in scores.scores:
        labels = [score_service_pb2.LabelScore(label=label.label, score=label.score) for label in score.labels]
        response.scores.add(labels=labels, input_token_count=score.input_token_count, truncated=score.truncated)
    return response


def list_models_response(page: ModelPage) -> operations_service_pb2.ListModelsResponse:
    return operations_service_pb2.ListModelsResponse(
        models=[_model(model) for model in page.models], next_page_token=page.next_name
    )


def get_status_response(status: Status) -> operations_service_pb2.GetStatusResponse:
    return operations_service_pb2.GetStatusResponse(
        version=status.version,
        uptime=_duration(status.uptime),
        replicas=[_replica(replica) for replica in status.replicas],
    )


def _position(position: inference.PositionLogprobs) -> conversation_pb2.PositionLogprobs:
    return conversation_pb2.PositionLogprobs(
        chosen=_token(position.chosen), top=[_token(token) for token in position.top]
    )


def _token(token: inference.TokenLogprob) -> conversation_pb2.TokenLogprob:
    return conversation_pb2.TokenLogprob(text=token.text, logprob=token.logprob, token_id=token.token_id)


def _usage(usage: inference.Usage) -> conversation_pb2.Usage:
    return conversation_pb2.Usage(
        input_token_count=usage.input_token_count,
        output_token_count=usage.output_token_count,
        cached_token_count=usage.cached_token_count,
    )


def _timings(timings: inference.Timings) -> conversation_pb2.Timings:
    return conversation_pb2.Timings(
        queue=_duration(timings.queue),
        prefill=_duration(timings.prefill),
        decode=_duration(timings.decode),
        total=_duration(timings.total),
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _model(model: inference.Model) -> operations_service_pb2.Model:
    return operations_service_pb2.Model(
        name=model.name,
        task=_TASKS[model.task],
        source=model.source,
        max_context_tokens=model.max_context_tokens,
        max_texts=model.max_texts,
        dimension_count=model.dimension_count,
        labels=model.labels,
        notice=model.notice,
        ready=model.ready,
    )


def _replica(replica: inference.Replica) -> operations_service_pb2.Replica:
    totals = replica.totals
    by_model = totals.models if totals is not None else {}
    told = operations_service_pb2.Replica(
        address=replica.address,
        replica_id=replica.replica_id,
        state=_REPLICA_STATES[replica.state],
        live_request_count=replica.live_request_count,
        models=[_load(load, by_model.get(load.model)) for load in replica.models],
    )
    if totals is not None:
        told.device_time.CopyFrom(_device_time(totals.device_time))
        told.totals_age.CopyFrom(_duration(totals.age))
    return told


def _device_time(spent: inference.DeviceTime) -> operations_service_pb2.DeviceTime:
    return operations_service_pb2.DeviceTime(
        computing=_duration(spent.computing),
        no_work=_duration(spent.no_work),
        waiting_for_credits=_duration(spent.waiting_for_credits),
        host=_duration(spent.host),
        loading=_duration(spent.loading),
    )


def _load(load: inference.ModelLoad, totals: inference.ModelTotals | None) -> operations_service_pb2.ModelLoad:
    told = operations_service_pb2.ModelLoad(
        model=load.model,
        running_sequence_count=load.running_sequence_count,
        waiting_sequence_count=load.waiting_sequence_count,
        queued_token_count=load.queued_token_count,
        free_cache_token_count=load.free_cache_token_count,
        step_duration=_duration(load.step_duration),
        predicted_wait=_duration(load.predicted_wait),
    )
    if totals is not None:
        interactive, normal, batch = totals.waiting
        told.waiting.CopyFrom(
            operations_service_pb2.WaitingByPriority(interactive=interactive, normal=normal, batch=batch)
        )
        told.output_token_count = totals.output_token_count
        told.input_token_count = totals.input_token_count
        told.finished_request_count = totals.finished_request_count
    return told
