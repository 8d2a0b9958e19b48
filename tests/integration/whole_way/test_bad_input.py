"""Requests that nobody should send, to the whole system on its real models: each gets an error that names its field and
limit, at once, while an answer under way goes on."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from seam.business.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    conversation_pb2,
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    score_service_pb2,
    score_service_pb2_grpc,
)
from support.seam_up import SeamUp, seam_up

ANSWER = 300  # tokens of the answer under way
LONGEST_PAUSE = 1.5  # seconds between two of them, on a machine that does other things too

Sampling = conversation_pb2.Sampling
Stop = conversation_pb2.StopConditions
Format = conversation_pb2.OutputFormat
Choice = conversation_pb2.Choice
Message = conversation_pb2.Message


def chat(*messages: Message, **fields: Any) -> chat_service_pb2.ChatRequest:
    return chat_service_pb2.ChatRequest(messages=messages or (Message(role="user", content="hi"),), **fields)


def sampled(**fields: Any) -> chat_service_pb2.ChatRequest:
    return chat(sampling=Sampling(**fields))


def stopped(**fields: Any) -> chat_service_pb2.ChatRequest:
    return chat(stop=Stop(**fields))


def formed(**fields: Any) -> chat_service_pb2.ChatRequest:
    return chat(format=Format(**fields))


def embed(*texts: str, **fields: Any) -> embedding_service_pb2.EmbedRequest:
    return embedding_service_pb2.EmbedRequest(texts=texts, **fields)


def score(*inputs: score_service_pb2.ScoreInput) -> score_service_pb2.ScoreRequest:
    return score_service_pb2.ScoreRequest(inputs=inputs)


BY_GRPC: dict[str, tuple[Any, str, str]] = {  # the request, the field and a part of what is said of it
    "temperature nan": (sampled(temperature=math.nan), "sampling.temperature", "at most 100, was nan"),
    "temperature below 0": (sampled(temperature=-1), "sampling.temperature", "at least 0"),
    "top_p 0": (sampled(top_p=0), "sampling.top_p", "above 0 and at most 1"),
    "top_k huge": (sampled(top_k=2**32 - 1), "sampling.top_k", "at most 2147483647"),
    "min_p over 1": (sampled(min_p=2), "sampling.min_p", "at most 1"),
    "repetition penalty infinite": (sampled(repetition_penalty=math.inf), "sampling.repetition_penalty", "finite"),
    "presence penalty": (sampled(presence_penalty=3), "sampling.presence_penalty", "at most 2"),
    "frequency penalty": (sampled(frequency_penalty=-3), "sampling.frequency_penalty", "at least -2"),
    "bias of no token": (sampled(logit_bias={2**31: 1.0}), "sampling.logit_bias[0]", "ids are below"),
    "bias nan": (sampled(logit_bias={5: math.nan}), "sampling.logit_bias[5]", "at most 100"),
    "biases without end": (sampled(logit_bias=dict.fromkeys(range(1025), 1.0)), "sampling.logit_bias", "1024"),
    "no output": (stopped(max_output_tokens=0), "stop.max_output_tokens", "at least 1"),
    "too much output": (stopped(max_output_tokens=10**6), "stop.max_output_tokens", "at most 2048"),
    "at least more than at most": (
        stopped(max_output_tokens=3, min_output_tokens=4), "stop.min_output_tokens", "at most stop.max_output_tokens",
    ),
    "empty stop string": (stopped(stop_strings=["a", ""]), "stop.stop_strings[1]", "empty"),
    "stop strings without end": (stopped(stop_strings=["a"] * 17), "stop.stop_strings", "at most 16"),
    "a long stop string": (stopped(stop_strings=["a" * 257]), "stop.stop_strings[0]", "at most 256 bytes"),
    "unknown stop id": (stopped(stop_token_ids=[10**9]), "stop.stop_token_ids[0]", "ids are below"),
    "schema cut off": (formed(json_schema='{"type":'), "format.json_schema", "line 1 column 9"),
    "schema of no type": (formed(json_schema='{"type":"banana"}'), "format.json_schema", "banana"),
    "schema that points nowhere": (
        formed(json_schema='{"properties":{"a":{"$ref":"#/no"}}}'), "format.json_schema", "at /properties/a",
    ),
    "schema too deep": (formed(json_schema='{"items":' * 3000 + "{}" + "}" * 3000), "format.json_schema", "depth"),
    "regex not closed": (formed(regex="ab([a-z"), "format.regex", "at character 3"),
    "no choice": (formed(choice=Choice()), "format.choice.texts", "at least one"),
    "choices without end": (formed(choice=Choice(texts=map(str, range(1025)))), "format.choice.texts", "at most 1024"),
    "top logprobs alone": (
        chat(detail=conversation_pb2.OutputDetail(top_logprob_count=3)), "detail.top_logprob_count", "needs logprobs",
    ),
    "no message": (chat_service_pb2.ChatRequest(), "messages", "at least one"),
    "an empty message": (chat(Message(role="user")), "messages[0].content", "empty"),
    "unknown role": (chat(Message(role="wizard", content="x")), "messages[0].role", "system, user, assistant"),
    "unknown model": (chat(model="nobody"), "model", "chat, embed, score"),
    "model of another task": (chat(model="embed"), "model", "does embed"),
    "prompt over the context": (chat(Message(role="user", content="word " * 20_000)), "messages", "context is 2048"),
    "a text of 3 MB": (chat(Message(role="user", content="x" * 3_000_000)), "messages[0].content", "1048576 bytes"),
    "more messages than tokens": (chat(*[Message(role="user", content="x")] * 3000), "messages", "context is 2048"),
    "100,000 messages": (chat(*[Message(role="user", content="x")] * 100_000), "messages", "at most 4096"),
    "special tokens without end": (chat(Message(role="user", content="<|im_end|>" * 100_000)), "messages", "context"),
    "no text": (embed(), "texts", "at least one"),
    "an empty text": (embed("a", "", "b"), "texts[1]", "empty"),
    "too many texts": (embed(*["a"] * 257), "texts", "at most 256"),
    "texts without end": (embed(*[""] * 1_000_000), "texts", "at most 4096"),
    "a text over the limit": (embed("a", "long " * 2000), "texts[1]", "limit is 256"),
    "a MiB of text": (embed("long " * 200_000), "texts[0]", "limit is 256"),
    "no dimension": (embed("a", dimension_count=0), "dimension_count", "at least 1"),
    "too many dimensions": (embed("a", dimension_count=385), "dimension_count", "at most 384"),
    "unknown prompt name": (embed("a", prompt_name="nope"), "prompt_name", "it has: none"),
    "unknown truncation": (embed("a", truncation=9), "truncation", "was 9"),
    "nothing to score": (score(), "inputs", "at least one"),
    "an empty pair": (score(score_service_pb2.ScoreInput(text="a", text_pair="")), "inputs[0].text_pair", "empty"),
}  # fmt: skip

BY_HTTP: dict[str, tuple[str, dict[str, Any] | bytes, int, str | None, str]] = {
    "temperature": ("chat/completions", {"temperature": -1}, 400, "temperature", "at least 0"),
    "top_k": ("chat/completions", {"top_k": -1}, 400, "top_k", "at least 0"),
    "min_p": ("chat/completions", {"min_p": 2}, 400, "min_p", "at most 1"),
    "repetition_penalty": ("chat/completions", {"repetition_penalty": 0}, 400, "repetition_penalty", "above 0"),
    "logit_bias": ("chat/completions", {"logit_bias": {"a": 1}}, 400, "logit_bias.a", "integer"),
    "stop": ("chat/completions", {"stop": ""}, 400, "stop[0]", "empty"),
    "max_tokens": ("chat/completions", {"max_tokens": 0}, 400, "max_tokens", "at least 1"),
    "max_completion_tokens": (
        "chat/completions", {"max_completion_tokens": 0}, 400, "max_completion_tokens", "at least 1",
    ),
    "n": ("chat/completions", {"n": 2}, 501, "n", "only 1"),
    "no such field": ("chat/completions", {"temprature": 1}, 400, "temprature", "no such field"),
    "schema": (
        "chat/completions",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "banana"}}}},
        400, "response_format.json_schema.schema", "banana",
    ),
    "regex": (
        "chat/completions", {"response_format": {"type": "regex", "regex": "("}}, 400, "response_format.regex",
        "at character 0",
    ),
    "not JSON": ("chat/completions", b'{"messages": [', 400, None, "character 14"),
    "not a number": ("chat/completions", b'{"messages":[],"temperature":NaN}', 400, None, ""),
    "not UTF-8": ("chat/completions", b'{"messages":"\xff"}', 400, None, "cannot be read"),
    "half a surrogate pair": (
        "chat/completions", b'{"messages":[{"role":"user","content":"\\ud800"}]}', 400, "messages[0].content",
        "surrogate",
    ),
    "a body without end": ("chat/completions", b'{"messages":"' + b"x" * 5_000_000 + b'"}', 413, None, "4194304"),
    "messages without end": (
        "chat/completions", {"messages": [{"role": "user", "content": "x"}] * 5000}, 400, "messages", "at most 4096",
    ),
    "no input": ("embeddings", {"input": []}, 400, "input", "at least one"),
    "token ids": ("embeddings", {"input": [1, 2]}, 501, "input", "send text"),
    "dimensions": ("embeddings", {"input": "a", "dimensions": 0}, 400, "dimensions", "at least 1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def system() -> Iterator[SeamUp]:
    with seam_up("--topology", "split") as started:
        yield started


class Way:
    """Both edges of a system, and an answer under way on one of them."""

    def __init__(self, system: SeamUp, channel: grpc.aio.Channel, http: httpx.AsyncClient) -> None:
        self._metadata = (("authorization", f"Bearer {system.ready['api_key']}"),)
        self._chat = chat_service_pb2_grpc.ChatServiceStub(channel)
        self._embed = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        self._score = score_service_pb2_grpc.ScoreServiceStub(channel)
        self.http = http

    async def ask(self, request: Any) -> None:
        match request:
            case chat_service_pb2.ChatRequest():
                async for _ in self._chat.Chat(request, metadata=self._metadata, timeout=60):
                    pass
            case embedding_service_pb2.EmbedRequest():
                await self._embed.Embed(request, metadata=self._metadata, timeout=60)
            case _:
                await self._score.Score(request, metadata=self._metadata, timeout=60)

    async def long_answer(self) -> tuple[int, float]:
        """Its tokens, and the longest pause between two pieces, in seconds."""
        longest, last = 0.0, math.inf
        tokens = 0
        async for event in self._chat.Chat(
            stopped(max_output_tokens=ANSWER, ignore_end_token=True), metadata=self._metadata, timeout=120
        ):
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            tokens = event.finished.usage.output_token_count
        return tokens, longest


@asynccontextmanager
async def way(system: SeamUp) -> AsyncIterator[Way]:
    unbounded = (("grpc.max_send_message_length", -1),)
    headers = {"authorization": f"Bearer {system.ready['api_key']}"}
    async with (
        grpc.aio.insecure_channel(system.ready["grpc"], options=unbounded) as channel,
        httpx.AsyncClient(base_url=f"http://{system.ready['http']}/v1/", headers=headers, timeout=60) as http,
    ):
        yield Way(system, channel, http)


def violation(error: grpc.aio.AioRpcError) -> tuple[list[str], str]:
    """Fields and reason of a refusal."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, error
    bad, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
    for detail in status.details:
        for kind in (bad, info):
            if detail.Is(kind.DESCRIPTOR):
                detail.Unpack(kind)
    return [found.field for found in bad.field_violations], info.reason


@pytest.mark.parametrize("name", BY_GRPC)
async def test_over_grpc_the_field_and_its_limit_are_named(system: SeamUp, name: str) -> None:
    request, field, said = BY_GRPC[name]
    async with way(system) as edges:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await edges.ask(request)
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    fields, reason = violation(refused.value)
    assert fields[0] == field
    assert reason
    told = refused.value.details() or ""
    assert said in told
    assert field in told


@pytest.mark.parametrize("name", BY_HTTP)
async def test_over_http_the_field_and_its_limit_are_named(system: SeamUp, name: str) -> None:
    path, body, status, field, said = BY_HTTP[name]
    async with way(system) as edges:
        if isinstance(body, bytes):
            answer = await edges.http.post(path, content=body, headers={"content-type": "application/json"})
        else:
            question = {} if path == "embeddings" else {"messages": [{"role": "user", "content": "hi"}]}
            answer = await edges.http.post(path, json=question | body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert said in error["message"]
    assert error["code"]
    if field is not None:
        assert error["param"] == field


async def test_a_request_over_the_limit_of_bytes_is_told_it(system: SeamUp) -> None:
    async with way(system) as edges:
        with pytest.raises(grpc.aio.AioRpcError, match="has 7000016 bytes, the limit is 4194304") as refused:
            await edges.ask(chat(Message(role="user", content="x" * 7_000_000)))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_answer_under_way_does_not_wait_for_any_of_it(system: SeamUp) -> None:
    async with way(system) as edges:
        answer = asyncio.create_task(edges.long_answer())
        while not answer.done():
            for request, *_ in BY_GRPC.values():
                with pytest.raises(grpc.aio.AioRpcError):
                    await edges.ask(request)
        tokens, longest = await answer
    assert tokens == ANSWER
    assert longest < LONGEST_PAUSE
