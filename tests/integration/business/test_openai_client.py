"""A real client of another maker: the `openai` package against /v1."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import openai
import pytest
from business_svc.errors import Reason, SeamError
from business_svc.server import Running
from support.fake_inference import CHAT, FakeInference, vector_of

KEY = "a-key-that-is-long-enough"


@pytest.fixture
async def client(running: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"http://{running.http_address}/v1", api_key=KEY, max_retries=2) as opened:
        yield opened


async def test_a_chat_is_answered_whole(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="chat",
        messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "why is it blue"}],
        logprobs=True,
        top_logprobs=3,
        max_completion_tokens=10,
        temperature=0.5,
        seed=7,
        extra_body={"top_k": 5, "min_p": 0.125, "ignore_eos": True},
    )
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        "the sky is blue",
        "stop",
    )
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [token.token for token in choice.logprobs.content] == ["the ", "sky ", "is ", "blue"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 4, 10)
    assert abs(answer.created - time.time()) < 60
    assert answer.model == "chat"


async def test_a_chat_streams(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "why"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == "the sky is blue"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


async def test_the_accumulating_stream_helper_reads_a_stream(client: openai.AsyncOpenAI) -> None:
    messages = [{"role": "user", "content": "why"}]
    async with client.chat.completions.stream(model="chat", messages=messages) as stream:  # type: ignore[arg-type]
        whole = await stream.get_final_completion()
    assert whole.choices[0].message.content == "the sky is blue"


async def test_breaking_off_a_stream_stops_the_work(client: openai.AsyncOpenAI, inference: FakeInference) -> None:
    inference.open_tokens = 2
    messages = [{"role": "user", "content": "why"}]
    stream = await client.chat.completions.create(model="chat", messages=messages, stream=True)  # type: ignore[call-overload]
    async for chunk in stream:
        if chunk.choices[0].delta.content == "sky ":
            break
    await stream.close()
    await asyncio.wait_for(inference.until_live(0), 10)
    assert len(inference.stopped) == 1


async def test_embeddings_come_back_the_same_in_either_encoding(client: openai.AsyncOpenAI) -> None:
    by_default = await client.embeddings.create(model="embed", input=["a", "b"])  # the package asks for base64
    as_floats = await client.embeddings.create(model="embed", input=["a", "b"], encoding_format="float")
    expected = [list(vector_of(text, 8)) for text in ("a", "b")]
    assert [row.embedding for row in by_default.data] == expected
    assert [row.embedding for row in as_floats.data] == expected
    short = await client.embeddings.create(model="embed", input="a", dimensions=3)
    assert short.data[0].embedding == list(vector_of("a", 3))
    assert short.usage.prompt_tokens == 1


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["chat", "embed", "score"]
    assert (await client.models.retrieve("chat")).owned_by == "seam"


async def test_errors_are_the_packages_own(client: openai.AsyncOpenAI, inference: FakeInference) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.embeddings.create(model="nope", input="a")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as empty:
        await client.embeddings.create(model="embed", input=["a", ""])
    assert (empty.value.code, empty.value.param) == ("text_empty", "input[1]")
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong-key-wrong-key").embeddings.create(model="embed", input="a")
    assert inference.asked == []


async def test_only_what_makes_sense_is_tried_again(client: openai.AsyncOpenAI, inference: FakeInference) -> None:
    inference.failure = SeamError(Reason.STEP_FAILED, "it will again")
    with pytest.raises(openai.InternalServerError):
        await client.embeddings.create(model="embed", input="a")
    assert len(inference.asked) == 1
    inference.failure = SeamError(Reason.QUEUE_FULL, "come again", retry_after=0.01)
    with pytest.raises(openai.RateLimitError):
        await client.embeddings.create(model="embed", input="a")
    assert len(inference.asked) == 4


async def test_an_error_in_the_middle_of_a_stream_is_raised(
    client: openai.AsyncOpenAI, inference: FakeInference
) -> None:
    inference.failure, inference.failing_after = SeamError(Reason.REPLICA_LOST, "gone"), 2
    messages = [{"role": "user", "content": "why"}]
    stream = await client.chat.completions.create(model="chat", messages=messages, stream=True)  # type: ignore[call-overload]
    with pytest.raises(openai.APIError, match="gone"):
        [chunk async for chunk in stream]


async def test_a_reader_that_waits_gets_every_token(client: openai.AsyncOpenAI, inference: FakeInference) -> None:
    inference.served = [replace(CHAT, max_context_tokens=5000)]
    inference.words = [f"{number} " for number in range(500)]
    messages = [{"role": "user", "content": "count"}]
    stream = await client.chat.completions.create(
        model="chat", messages=messages, stream=True, max_completion_tokens=120
    )  # type: ignore[call-overload]
    texts = []
    async for chunk in stream:
        texts.append(chunk.choices[0].delta.content or "")
        await asyncio.sleep(0)
    assert "".join(texts).split() == [str(number) for number in range(120)]
