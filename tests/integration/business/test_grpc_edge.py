"""seam.business.v1 as a client sees it, over a real server."""

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest
from business_svc.domain.inference import (
    DeviceTime,
    ModelLoad,
    ModelTotals,
    Replica,
    ReplicaState,
    Totals,
    Truncation,
)
from business_svc.domain.retrying import RETRIED
from business_svc.edge_grpc.errors_wire import CODES
from business_svc.errors import Reason, SeamError, bad_field
from business_svc.server import Running
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from seam.business.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    conversation_pb2,
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    operations_service_pb2,
    operations_service_pb2_grpc,
    predict_service_pb2,
    predict_service_pb2_grpc,
    score_service_pb2,
    score_service_pb2_grpc,
)
from support.fake_inference import CHAT, FakeInference, vector_of

KEY = "a-key-that-is-long-enough"
METADATA = (("authorization", f"Bearer {KEY}"),)


def asking(*contents: str, **fields: object) -> chat_service_pb2.ChatRequest:
    messages = [conversation_pb2.Message(role="user", content=content) for content in contents]
    return chat_service_pb2.ChatRequest(messages=messages, **fields)  # type: ignore[arg-type]


def details_of(error: grpc.aio.AioRpcError) -> tuple[ErrorInfo, BadRequest, RetryInfo | None]:
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    found = {type(message): detail.Unpack(message) for detail in status.details for message in (info, bad, retry)}
    assert found
    return info, bad, retry if any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details) else None


@pytest.fixture
def chat(channel: grpc.aio.Channel) -> chat_service_pb2_grpc.ChatServiceStub:
    return chat_service_pb2_grpc.ChatServiceStub(channel)


@pytest.fixture
def embed(channel: grpc.aio.Channel) -> embedding_service_pb2_grpc.EmbeddingServiceStub:
    return embedding_service_pb2_grpc.EmbeddingServiceStub(channel)


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    """How a call fails, unary or streaming."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (texts_of(call, []) if hasattr(call, "read") else call)
    return caught.value


async def texts_of(call: Any, texts: list[str]) -> None:
    async for event in call:
        texts.append(event.text.text)


async def test_a_chat_streams_started_then_texts_then_finished(
    chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    events = [event async for event in chat.Chat(asking("why blue"), metadata=METADATA)]

    assert [event.WhichOneof("event") for event in events] == ["started", *["text"] * 4, "finished"]
    started, finished = events[0].started, events[-1].finished
    assert (started.model, started.input_token_count, started.notice) == ("chat", 2, CHAT.notice)
    assert started.request_id
    assert "".join(event.text.text for event in events) == "the sky is blue"
    assert finished.reason == conversation_pb2.FINISH_REASON_STOP
    assert (finished.usage.input_token_count, finished.usage.output_token_count) == (2, 4)
    assert finished.timings.queue.ToMilliseconds() == 250
    assert finished.timings.total.ToNanoseconds() > 0
    assert inference.contexts[0].tenant == "acme"


async def test_every_field_of_a_chat_reaches_inference(
    chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    request = asking(
        "hello",
        model="chat",
        sampling=conversation_pb2.Sampling(
            temperature=0.5, top_k=3, top_p=0.25, min_p=0.125, repetition_penalty=1.5, presence_penalty=-1,
            frequency_penalty=1, logit_bias={7: -4}, seed=2**64 - 1,
        ),
        stop=conversation_pb2.StopConditions(
            max_output_tokens=3, min_output_tokens=1, stop_strings=["x"], stop_token_ids=[9], ignore_end_token=True
        ),
        format=conversation_pb2.OutputFormat(regex="[a-z ]*"),
        detail=conversation_pb2.OutputDetail(logprobs=True, top_logprob_count=2, token_ids=True),
    )  # fmt: skip
    events = [event async for event in chat.Chat(request, metadata=METADATA)]

    assert repr(inference.asked[0]) == (
        "GenerateRequest(model='chat', messages=(Message(role='user', content='hello'),), "
        "sampling=Sampling(temperature=0.5, top_k=3, top_p=0.25, min_p=0.125, repetition_penalty=1.5, "
        "presence_penalty=-1.0, frequency_penalty=1.0, logit_bias={7: -4.0}, seed=18446744073709551615), "
        "stop=StopConditions(max_output_tokens=3, min_output_tokens=1, stop_strings=('x',), stop_token_ids=(9,), "
        "ignore_end_token=True), format=Regex(pattern='[a-z ]*'), "
        "detail=OutputDetail(logprobs=True, top_logprob_count=2, token_ids=True))"
    )
    assert events[0].started.seed == 2**64 - 1
    assert list(events[1].text.token_ids) == [1]
    assert events[1].text.logprobs[0].chosen == conversation_pb2.TokenLogprob(text="the ", logprob=-0.5, token_id=1)
    assert len(events[1].text.logprobs[0].top) == 2
    assert events[-1].finished.reason == conversation_pb2.FINISH_REASON_LENGTH


async def test_predict_embed_and_score_answer(channel: grpc.aio.Channel, inference: FakeInference) -> None:
    predict = predict_service_pb2_grpc.PredictServiceStub(channel)
    predicted = await predict.Predict(predict_service_pb2.PredictRequest(text="why"), metadata=METADATA)
    assert (predicted.text, predicted.model, predicted.notice) == ("the sky is blue", "chat", CHAT.notice)

    embed = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
    asked = embedding_service_pb2.EmbedRequest(
        texts=["a", "long " * 20],
        truncation=embedding_service_pb2.TRUNCATION_DROP_END,
        dimension_count=3,
        prompt_name="q",
    )
    embedded = await embed.Embed(asked, metadata=METADATA)
    assert [tuple(vector.values) for vector in embedded.embeddings] == [vector_of("a", 3), vector_of("long " * 20, 3)]
    assert [vector.truncated for vector in embedded.embeddings] == [False, True]
    assert (embedded.model, embedded.usage.input_token_count) == ("embed", 17)
    assert (inference.asked[-1].truncation, inference.asked[-1].prompt_name) == (Truncation.DROP_END, "q")  # type: ignore[union-attr]

    score = score_service_pb2_grpc.ScoreServiceStub(channel)
    inputs = [score_service_pb2.ScoreInput(text="a"), score_service_pb2.ScoreInput(text="b", text_pair="c d")]
    scored = await score.Score(score_service_pb2.ScoreRequest(inputs=inputs), metadata=METADATA)
    assert [[(label.label, label.score) for label in one.labels] for one in scored.scores] == [
        [("bad", 0.25), ("good", 0.75)]
    ] * 2
    assert [one.input_token_count for one in scored.scores] == [1, 3]


async def test_every_reason_leaves_with_its_code_and_details(
    embed: embedding_service_pb2_grpc.EmbeddingServiceStub, inference: FakeInference
) -> None:
    for reason in Reason:
        inference.failure = SeamError(reason, "so it is", retry_after=2.5 if reason in RETRIED else None)
        error = await refusal(embed.Embed(embedding_service_pb2.EmbedRequest(texts=["a"]), metadata=METADATA))
        info, bad, retry = details_of(error)
        assert error.code() is CODES[reason]
        assert (info.reason, info.domain, error.details()) == (reason.value, "seam", "so it is")
        assert not bad.field_violations
        delay = retry.retry_delay.ToMilliseconds() if retry else None
        assert (reason, delay) == (reason, 2500 if reason in RETRIED else None)


async def test_fields_of_inference_are_told_as_the_callers_own(
    chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    inference.failure = bad_field("work.sampling.top_p", "must be at most 1, was 2")
    info, bad, _ = details_of(await refusal(chat.Chat(asking("a"), metadata=METADATA)))
    assert [violation.field for violation in bad.field_violations] == ["sampling.top_p"]

    inference.failure = bad_field("work.prompt.chat.messages[1].content", "is too rude")
    error = await refusal(chat.Chat(asking("a", "b"), metadata=METADATA))
    assert error.details() == "messages[1].content: is too rude"
    assert info.reason == "INVALID_FIELD"


async def test_what_is_wrong_is_refused_before_inference_is_asked(
    embed: embedding_service_pb2_grpc.EmbeddingServiceStub, inference: FakeInference
) -> None:
    error = await refusal(embed.Embed(embedding_service_pb2.EmbedRequest(texts=["a", ""]), metadata=METADATA))
    info, bad, _ = details_of(error)
    assert (info.reason, bad.field_violations[0].field) == ("TEXT_EMPTY", "texts[1]")
    many = embedding_service_pb2.EmbedRequest(texts=["a"] * 5)
    info, bad, _ = details_of(await refusal(embed.Embed(many, metadata=METADATA)))
    assert (info.reason, bad.field_violations[0].field) == ("TOO_MANY_TEXTS", "texts")
    unknown = embedding_service_pb2.EmbedRequest(texts=["a"], truncation=7)  # type: ignore[arg-type]
    info, bad, _ = details_of(await refusal(embed.Embed(unknown, metadata=METADATA)))
    assert (info.reason, bad.field_violations[0].field) == ("INVALID_FIELD", "truncation")
    assert inference.asked == []


async def test_a_thousand_violations_still_fit_the_trailers(
    embed: embedding_service_pb2_grpc.EmbeddingServiceStub, inference: FakeInference
) -> None:
    inference.served = [replace(model, max_texts=5000) for model in inference.served]
    error = await refusal(embed.Embed(embedding_service_pb2.EmbedRequest(texts=[""] * 1000), metadata=METADATA))
    info, bad, _ = details_of(error)
    assert info.reason == "TEXT_EMPTY"
    assert 0 < len(bad.field_violations) < 1000
    assert "999 more" in str(error.details())


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "API_KEY_MISSING"),
        ((("authorization", f"Basic {KEY}"),), "API_KEY_MISSING"),
        ((("authorization", "Bearer wrong-key-wrong-key"),), "API_KEY_INVALID"),
        ((("x-api-key", KEY + "x"),), "API_KEY_INVALID"),
    ],
)
async def test_without_a_known_key_nothing_is_answered(
    channel: grpc.aio.Channel, inference: FakeInference, metadata: tuple[tuple[str, str], ...], reason: str
) -> None:
    chat = chat_service_pb2_grpc.ChatServiceStub(channel)
    operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
    for call in (
        chat.Chat(asking("a"), metadata=metadata),
        operations.ListModels(operations_service_pb2.ListModelsRequest(), metadata=metadata),
        operations.GetStatus(operations_service_pb2.GetStatusRequest(), metadata=metadata),
    ):
        error = await refusal(call)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert details_of(error)[0].reason == reason
    assert inference.asked == []


async def test_a_key_may_come_as_x_api_key(chat: chat_service_pb2_grpc.ChatServiceStub) -> None:
    assert [event async for event in chat.Chat(asking("a"), metadata=(("x-api-key", KEY),))]


async def test_the_deadline_of_a_call_reaches_inference_and_a_call_without_one_gets_the_servers(
    chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    now = asyncio.get_running_loop().time()
    short = conversation_pb2.StopConditions(max_output_tokens=1)
    assert [event async for event in chat.Chat(asking("a", stop=short), metadata=METADATA, timeout=50)]
    assert [event async for event in chat.Chat(asking("a", stop=short), metadata=METADATA)]
    with_deadline, without = (context.deadline or 0 for context in inference.contexts)
    assert 0 < with_deadline - now < 51
    assert 590 < without - now < 660


async def test_a_deadline_that_passes_stops_the_work(
    chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    inference.gate.clear()
    error = await refusal(chat.Chat(asking("a"), metadata=METADATA, timeout=0.2))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(inference.until_live(0), 10)


async def test_a_cancelled_chat_stops_the_work(
    chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    inference.open_tokens = 2
    call = chat.Chat(asking("a"), metadata=METADATA)
    await asyncio.wait_for(inference.until_given(2), 10)
    call.cancel()
    await asyncio.wait_for(inference.until_live(0), 10)
    assert inference.stopped == inference.asked[-1:]


async def test_a_chat_cancelled_while_its_reader_does_not_read_stops_the_work(
    chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    inference.words = ["word " * 2000] * 1000
    inference.served = [replace(CHAT, max_context_tokens=5000)]
    call = chat.Chat(asking("a", stop=conversation_pb2.StopConditions(max_output_tokens=100)), metadata=METADATA)
    await asyncio.wait_for(inference.until_given(1), 10)
    call.cancel()
    await asyncio.wait_for(inference.until_live(0), 10)
    assert inference.tokens_given < 100


async def test_a_cancelled_embedding_stops_the_work(
    embed: embedding_service_pb2_grpc.EmbeddingServiceStub, inference: FakeInference
) -> None:
    inference.gate.clear()
    call = embed.Embed(embedding_service_pb2.EmbedRequest(texts=["a"]), metadata=METADATA)
    await asyncio.wait_for(inference.until_live(1), 10)
    call.cancel()
    await asyncio.wait_for(inference.until_live(0), 10)
    assert len(inference.stopped) == 1


async def test_an_error_in_the_middle_comes_after_the_text_before_it(
    chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    inference.failure, inference.failing_after = SeamError(Reason.REPLICA_LOST, "gone"), 2
    texts: list[str] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await texts_of(chat.Chat(asking("a"), metadata=METADATA), texts)
    assert texts == ["", "the ", "sky "]
    info, _, retry = details_of(caught.value)
    assert info.reason == "REPLICA_LOST"
    assert retry is not None


async def test_a_fault_of_the_server_says_nothing_of_its_inside(
    chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    inference.failure = ZeroDivisionError("secret")
    error = await refusal(chat.Chat(asking("a"), metadata=METADATA))
    assert (error.code(), details_of(error)[0].reason) == (grpc.StatusCode.INTERNAL, "INTERNAL_FAULT")
    assert "secret" not in str(error.details())
    inference.failure = None
    assert [event async for event in chat.Chat(asking("a"), metadata=METADATA)]


async def test_a_request_over_the_limit_is_refused_with_its_reason(
    chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    error = await refusal(chat.Chat(asking("x" * 20_000), metadata=METADATA))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(error)[0].reason == "MESSAGE_TOO_LARGE"
    assert inference.asked == []


async def test_bytes_that_are_no_message_are_told_so_and_leave_the_connection_and_the_log_alone(
    channel: grpc.aio.Channel, chat: chat_service_pb2_grpc.ChatServiceStub, caplog: pytest.LogCaptureFixture
) -> None:
    predict = channel.unary_unary("/seam.business.v1.PredictService/Predict")
    streamed = channel.unary_stream("/seam.business.v1.ChatService/Chat")
    for given in (b"\xff\xff\xff", b"\x0a\x01\xff"):
        for call in (predict(given, metadata=METADATA), streamed(given, metadata=METADATA)):
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert details_of(error)[0].reason == "INVALID_FIELD"
    assert [event async for event in chat.Chat(asking("a"), metadata=METADATA)]
    assert caplog.records == []


async def test_models_come_by_name_in_pages(channel: grpc.aio.Channel) -> None:
    operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
    first = await operations.ListModels(operations_service_pb2.ListModelsRequest(page_size=2), metadata=METADATA)
    assert [model.name for model in first.models] == ["chat", "embed"]
    rest = operations_service_pb2.ListModelsRequest(page_size=2, page_token=first.next_page_token)
    second = await operations.ListModels(rest, metadata=METADATA)
    assert [(model.name, model.task, list(model.labels)) for model in second.models] == [
        ("score", operations_service_pb2.TASK_SCORE, ["bad", "good"])
    ]
    assert second.next_page_token == ""


async def test_status_tells_of_every_replica(channel: grpc.aio.Channel, inference: FakeInference) -> None:
    load = ModelLoad("chat", 1, 2, 3, 4, 0.5, 0.25)
    totals = Totals(DeviceTime(computing=2.5), {"chat": ModelTotals(70, 60, 5, (1, 0, 1))}, age=0.25)
    inference.known_replicas = [
        Replica("h:1", "r-1", ReplicaState.DRAINING, 3, (load,), totals),
        Replica("h:2", "", ReplicaState.CONNECTING, 0, ()),
    ]
    operations = operations_service_pb2_grpc.OperationsServiceStub(channel)
    status = await operations.GetStatus(operations_service_pb2.GetStatusRequest(), metadata=METADATA)
    assert status.version
    assert status.uptime.ToNanoseconds() > 0
    replica, silent = status.replicas
    assert not silent.HasField("device_time")
    assert (replica.device_time.computing.ToMilliseconds(), replica.totals_age.ToMilliseconds()) == (2500, 250)
    told = replica.models[0]
    assert (told.output_token_count, told.input_token_count, told.finished_request_count) == (70, 60, 5)
    assert (told.waiting.interactive, told.waiting.normal, told.waiting.batch) == (1, 0, 1)
    assert (replica.address, replica.replica_id, replica.live_request_count) == ("h:1", "r-1", 3)
    assert replica.state == operations_service_pb2.REPLICA_STATE_DRAINING
    assert (replica.models[0].queued_token_count, replica.models[0].step_duration.ToMilliseconds()) == (3, 500)


async def test_a_drain_lets_an_answer_end_and_takes_nothing_new(
    running: Running, chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    inference.open_tokens = 1
    call = chat.Chat(asking("a"), metadata=METADATA)
    await asyncio.wait_for(inference.until_given(1), 10)
    draining = asyncio.create_task(running.drain(20))
    await asyncio.sleep(0)  # it has begun
    refused = details_of(await refusal(chat.Chat(asking("b"), metadata=METADATA)))
    assert (refused[0].reason, refused[2] is None) == ("DRAINING", False)
    assert not draining.done()
    inference.token_gate.set()
    assert "".join([event.text.text async for event in call]) == "the sky is blue"
    await asyncio.wait_for(draining, 10)


async def test_an_answer_longer_than_the_drain_ends_with_draining(
    running: Running, chat: chat_service_pb2_grpc.ChatServiceStub, inference: FakeInference
) -> None:
    inference.open_tokens = 1
    call = chat.Chat(asking("a"), metadata=METADATA)
    await asyncio.wait_for(inference.until_given(1), 10)
    await asyncio.wait_for(running.drain(0.05), 10)
    error = await refusal(call)
    assert (error.code(), details_of(error)[0].reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert inference.live == 0
