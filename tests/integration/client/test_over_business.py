"""Both clients against the real business server over a fake inference: what they promise each other."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from business_svc.errors import Reason
from business_svc.errors import SeamError as BusinessError
from business_svc.server import Running, serve
from business_svc.settings import read_settings
from seam_client import (
    AsyncSeam,
    DeadlineExceeded,
    FinishReason,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    Overloaded,
    Seam,
    Task,
    Unavailable,
)
from support.fake_inference import CHAT, EMBED, FakeInference, vector_of

KEY = "a-key-that-is-long-enough"


@pytest.fixture
async def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def running(inference: FakeInference) -> AsyncIterator[Running]:
    settings = read_settings(api_keys=f"acme:{KEY}", grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0")
    async with serve(settings, inference) as server:
        yield server


@pytest.fixture
async def seam(running: Running) -> AsyncIterator[AsyncSeam]:
    async with AsyncSeam(running.grpc_address, api_key=KEY) as client:
        yield client


async def test_an_answer_streams_with_its_notice_usage_and_times(seam: AsyncSeam) -> None:
    async with seam.chat("what colour is the sky", temperature=0.5, seed=3) as stream:
        assert [str(piece) async for piece in stream] == ["the ", "sky ", "is ", "blue"]
    assert stream.started is not None
    assert (stream.started.notice, stream.started.seed, stream.started.model) == (CHAT.notice, 3, "chat")
    assert stream.finished is not None
    assert stream.finished.reason is FinishReason.STOP
    assert stream.finished.usage.output_token_count == 4
    assert (stream.finished.timings.queue_seconds, stream.finished.timings.prefill_seconds) == (0.25, 0.5)
    assert stream.finished.timings.total_seconds > 0


async def test_log_probabilities_and_token_ids_come_where_asked_for(seam: AsyncSeam) -> None:
    async with seam.chat("x", logprobs=True, top_logprob_count=2, token_ids=True) as stream:
        first = await anext(stream)
    assert first.token_ids == (1,)
    assert [top.logprob for top in first.logprobs[0].top] == [-0.5, -1.5]


async def test_vectors_scores_models_and_status(seam: AsyncSeam) -> None:
    vectors = await seam.embed(["a", "b"])
    assert [e.values for e in vectors.embeddings] == [vector_of("a", 8), vector_of("b", 8)]
    scores = await seam.score([("q", "t")])
    assert [label.label for label in scores.scores[0].labels] == ["bad", "good"]
    models = await seam.models()
    assert [(m.name, m.task) for m in models] == [
        ("chat", Task.GENERATE),
        ("embed", Task.EMBED),
        ("score", Task.SCORE),
    ]
    assert models[1].max_texts == EMBED.max_texts
    status = await seam.status()
    assert [replica.address for replica in status.replicas] == ["fake:1"]
    assert (await seam.predict("x", max_output_tokens=2)).text == "the sky "


async def test_closing_a_stream_stops_the_work(seam: AsyncSeam, inference: FakeInference) -> None:
    inference.open_tokens = 1
    async with seam.chat("x") as stream:
        assert str(await anext(stream)) == "the "
        assert inference.live == 1
    async with asyncio.timeout(10):
        await inference.until_live(0)
    assert len(inference.stopped) == 1


async def test_a_deadline_reaches_the_work(seam: AsyncSeam, inference: FakeInference) -> None:
    inference.open_tokens = 1
    with pytest.raises(DeadlineExceeded):
        await seam.chat("x", timeout=0.3).text()
    async with asyncio.timeout(10):
        await inference.until_live(0)


async def test_bad_requests_name_the_callers_field(seam: AsyncSeam) -> None:
    with pytest.raises(InvalidRequest) as empty:
        await seam.embed(["fine", ""])
    assert (empty.value.reason, empty.value.violations[0].field) == ("TEXT_EMPTY", "texts[1]")
    with pytest.raises(InvalidRequest) as many:
        await seam.embed(["x"] * (EMBED.max_texts + 1))
    assert many.value.reason == "TOO_MANY_TEXTS"
    with pytest.raises(InvalidRequest) as long:
        await seam.embed(["x " * 17])
    assert (long.value.reason, long.value.violations[0].field) == ("INPUT_TOO_LONG", "texts[0]")
    with pytest.raises(InvalidRequest) as hot:
        await seam.chat("x", temperature=1000.0).text()
    assert "temperature" in hot.value.violations[0].field
    with pytest.raises(InvalidRequest) as none:
        await seam.chat([]).text()
    assert none.value.violations[0].field == "messages"
    with pytest.raises(InvalidRequest) as task:
        await seam.embed("x", model="chat")
    assert task.value.reason == "TASK_NOT_SUPPORTED"
    with pytest.raises(NotFound) as unknown:
        await seam.chat("x", model="nobody").text()
    assert unknown.value.reason == "MODEL_NOT_FOUND"


async def test_overload_and_a_lost_replica_say_when_to_try_again(seam: AsyncSeam, inference: FakeInference) -> None:
    inference.failure = BusinessError(Reason.QUEUE_FULL, "too much waits", retry_after=2.5)
    with pytest.raises(Overloaded) as full:
        await seam.predict("x")
    assert (full.value.reason, full.value.retry_after) == ("QUEUE_FULL", 2.5)
    inference.failure = BusinessError(Reason.REPLICA_LOST, "it went away", retry_after=0.5)
    inference.failing_after = 2
    async with seam.chat("x") as stream:
        with pytest.raises(Unavailable) as lost:
            await stream.text()
    assert (lost.value.reason, lost.value.retry_after, stream.so_far) == ("REPLICA_LOST", 0.5, "the sky ")


@pytest.mark.parametrize(("key", "reason"), [(None, "API_KEY_MISSING"), ("wrong", "API_KEY_INVALID")])
async def test_keys_are_checked(running: Running, key: str | None, reason: str) -> None:
    async with AsyncSeam(running.grpc_address, api_key=key) as seam:
        with pytest.raises(NotAuthenticated) as raised:
            await seam.predict("x")
    assert raised.value.reason == reason


async def test_a_request_over_the_servers_limit_is_invalid_where_the_client_lets_it_through(running: Running) -> None:
    async with AsyncSeam(running.grpc_address, api_key=KEY, max_request_bytes=2**30) as seam:
        with pytest.raises(InvalidRequest) as raised:
            await seam.predict("x" * (5 * 1024 * 1024))
    assert raised.value.reason == "MESSAGE_TOO_LARGE"


async def test_the_sync_client_does_the_same(running: Running) -> None:
    def ask() -> str:
        with Seam(running.grpc_address, api_key=KEY) as seam, seam.chat("x") as stream:
            return "|".join(str(piece) for piece in stream)

    assert await asyncio.to_thread(ask) == "the |sky |is |blue"
