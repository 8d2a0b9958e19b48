"""A real system is recorded; what replays it gives the same answers through the business server's own doors."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from business_svc.server import Running
from business_svc.server import serve as serve_business
from business_svc.settings import Settings as BusinessSettings
from inference_svc.replaying.answers import Match
from inference_svc.replaying.playback import Pace
from inference_svc.replaying.server import ReplayServer
from inference_svc.server import InferenceServer
from seam_client import AsyncSeam, SeamError
from support.recorded import KEY, pool_to, recording_server, replaying_server

API_KEY = "a-key-of-this-test"


@asynccontextmanager
async def business(replica: InferenceServer | ReplayServer) -> AsyncIterator[Running]:
    settings = BusinessSettings(
        api_keys=f"tests:{API_KEY}", grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0", default_max_output_tokens=12
    )
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(pool_to(replica))
        running = await stack.enter_async_context(serve_business(settings, pool))
        try:
            yield running
        finally:
            await running.drain(5)


def sdk(running: Running) -> AsyncSeam:
    return AsyncSeam(running.grpc_address, api_key=API_KEY)


async def sdk_answers(running: Running) -> dict[str, object]:
    """Of questions by the SDK, as far as they do not depend on time."""
    async with sdk(running) as seam:
        told: dict[str, object] = {}
        async with seam.chat("What is a seam?", max_output_tokens=20) as answer:
            told["chat"] = await answer.text()
        async with seam.chat("Say it by chance.", temperature=0.8, max_output_tokens=20) as answer:
            told["sampled"] = await answer.text()
        told["embed"] = [list(one.values) for one in (await seam.embed(["to sew", "to fly"])).embeddings]
        with pytest.raises(SeamError) as refused:
            await seam.embed(["x" * 600])
        told["refused"] = [refused.value.reason, str(refused.value)]
        return told


async def http_answers(running: Running) -> dict[str, object]:
    headers = {"authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(base_url=f"http://{running.http_address}", headers=headers, timeout=30) as http:
        said = await http.post("/predict", json={"text": "Say it in one word."})
        asked = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "What is a seam?"}]}
        streamed = await http.post("/v1/chat/completions", json=asked)
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"].get("content") or "" for line in lines for choice in json.loads(line)["choices"]]
    return {"predict": said.json()["text"], "stream": "".join(deltas)}


async def answers(replica: InferenceServer | ReplayServer) -> dict[str, object]:
    async with business(replica) as running:
        return {**await sdk_answers(running), **await http_answers(running)}


@pytest.mark.parametrize("pace", list(Pace))
async def test_a_recorded_system_is_replayed_with_equal_answers_over_grpc_and_http(tmp_path: Path, pace: Pace):
    async with asyncio.timeout(120):
        async with recording_server(tmp_path) as server:
            recorded = await answers(server)
        async with replaying_server(tmp_path, pace=pace) as replica:
            assert await answers(replica) == recorded


async def test_a_redacted_recording_answers_the_same_questions_for_whoever_has_its_key(tmp_path: Path):
    async with asyncio.timeout(120):
        async with recording_server(tmp_path, text="redacted", record_key=KEY) as server:
            recorded = await answers(server)
        async with replaying_server(tmp_path, record_key=KEY) as replica:
            replayed = await answers(replica)
    assert replayed["chat"] == replayed["sampled"] == "xxx " * 20
    assert len(replayed["embed"][0]) == len(recorded["embed"][0])
    assert replayed["refused"][0] == recorded["refused"][0] == "INPUT_TOO_LONG"


async def test_what_was_not_recorded_is_refused_with_what_differs(tmp_path: Path):
    async with asyncio.timeout(120):
        async with recording_server(tmp_path) as server, business(server) as running:
            await sdk_answers(running)
        async with replaying_server(tmp_path) as replica, business(replica) as running, sdk(running) as seam:
            with pytest.raises(
                SeamError, match=r"nothing recorded answers.*differs in stop\.max_output_tokens"
            ) as told:
                await seam.chat("What is a seam?", max_output_tokens=21).text()
            assert told.value.reason == "FEATURE_NOT_AVAILABLE"


async def test_recorded_answers_are_given_in_turn_whatever_is_asked(tmp_path: Path):
    async with asyncio.timeout(120):
        async with recording_server(tmp_path, text="redacted") as server, business(server) as running:
            await sdk_answers(running)
        async with (
            replaying_server(tmp_path, match=Match.ORDER) as replica,
            business(replica) as running,
            sdk(running) as seam,
        ):
            for _ in range(3):
                assert await seam.chat("Something else.", max_output_tokens=99).text() == "xxx " * 20
