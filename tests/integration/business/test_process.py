"""`seam-business` as a process of its own, in front of a scripted replica."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from business_svc.__main__ import write_ready_file
from seam.business.v1 import chat_service_pb2, chat_service_pb2_grpc, conversation_pb2
from support.duplex import ScriptedReplica, answer_of, grpc_replica, text_of_answer
from support.processes import wait_until_gone

KEY = "a-key-that-is-long-enough"
METADATA = (("x-api-key", KEY),)
FREE = {"SEAM_GRPC_LISTEN": "127.0.0.1:0", "SEAM_HTTP_LISTEN": "127.0.0.1:0", "SEAM_LINK_PLAINTEXT": "true"}


def environment(**variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SEAM_")}
    return {**clean, **FREE, **variables}


async def started(arguments: list[str], **variables: str) -> Process:
    command = [sys.executable, "-m", "business_svc", *arguments]
    return await asyncio.create_subprocess_exec(*command, env=environment(**variables), stderr=PIPE)


async def said(process: Process, word: str) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while line := (await process.stderr.readline()).decode():
            if word in line:
                return line
    raise AssertionError(f"it ended without saying {word!r}")


def read_when_there(ready_file: Path) -> Any:
    deadline = time.monotonic() + 30
    while not ready_file.exists():  # written a moment after it said so
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return json.loads(ready_file.read_text())


@asynccontextmanager
async def serving(replica: ScriptedReplica, ready_file: Path) -> AsyncIterator[tuple[Process, dict[str, Any]]]:
    async with grpc_replica(replica) as address:
        process = await started(["--ready-file", str(ready_file)], SEAM_API_KEYS=KEY, SEAM_REPLICAS=address)
        try:
            await said(process, "a replica is in use")
            yield process, await asyncio.to_thread(read_when_there, ready_file)
        finally:
            if process.returncode is None:
                process.kill()
            await asyncio.wait_for(process.wait(), 30)


async def to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


def asking(count: int) -> chat_service_pb2.ChatRequest:
    return chat_service_pb2.ChatRequest(
        messages=[conversation_pb2.Message(role="user", content="hello")],
        stop=conversation_pb2.StopConditions(max_output_tokens=count),
    )


async def test_it_serves_tells_where_and_ends_in_order(tmp_path: Path) -> None:
    ready_file = tmp_path / "ready.json"
    async with serving(ScriptedReplica(), ready_file) as (process, told):
        assert told.keys() == {"grpc", "http", "pid"}
        assert told["pid"] == process.pid
        async with grpc.aio.insecure_channel(told["grpc"]) as channel:
            call = chat_service_pb2_grpc.ChatServiceStub(channel).Chat(asking(5), metadata=METADATA)
            text = "".join([event.text.text async for event in call])
        assert text == text_of_answer(answer_of("hello", 5))
        async with httpx.AsyncClient(base_url=f"http://{told['http']}", headers={"x-api-key": KEY}) as http:
            body = (await http.post("/predict", json={"text": "hello", "max_output_tokens": 5})).json()
            assert body["text"] == text
            assert (await http.get("/readyz")).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    assert os.listdir(tmp_path) == []


async def test_a_first_signal_lets_answers_end_and_a_second_does_not_wait(tmp_path: Path) -> None:
    replica = ScriptedReplica()
    replica.ends = False
    async with serving(replica, tmp_path / "ready.json") as (process, told):
        async with grpc.aio.insecure_channel(told["grpc"]) as channel:
            call = chat_service_pb2_grpc.ChatServiceStub(channel).Chat(asking(5), metadata=METADATA)
            async with asyncio.timeout(30):
                assert (await call.read()).HasField("started")
            process.send_signal(signal.SIGTERM)
            await said(process, "finishes what runs")
            assert process.returncode is None
            process.send_signal(signal.SIGINT)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(to_the_end(call), 30)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_without_a_replica_it_lives_and_says_that_it_has_none() -> None:
    process = await started([], SEAM_API_KEYS=KEY, SEAM_REPLICAS="127.0.0.1:1")
    try:
        line = await said(process, "HTTP on")
        async with httpx.AsyncClient(base_url=f"http://{line.split('HTTP on ')[1].strip()}") as http:
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/readyz")).status_code == 503
            headers = {"x-api-key": KEY, "x-request-timeout": "0.2"}
            asked = await http.post("/predict", json={"text": "hello"}, headers=headers)
            assert asked.status_code in (503, 504)
    finally:
        process.terminate()
    assert await asyncio.wait_for(process.wait(), 30) == 0


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, ["SEAM_API_KEYS: must be set"]),
        ({"SEAM_API_KEYS": KEY}, ["SEAM_REPLICAS: must name"]),
        ({"SEAM_API_KEYS": "short", "SEAM_GRPC_LISTEN": "nowhere"}, ["SEAM_API_KEYS: ", "SEAM_GRPC_LISTEN: "]),
    ],
)
async def test_wrong_settings_are_named_and_end_it(variables: dict[str, str], words: list[str]) -> None:
    process = await started([], **variables)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert all(word in errors.decode() for word in words), errors
    assert "Traceback" not in errors.decode()


async def test_an_address_that_is_taken_is_named_and_ends_it() -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as other:
        taken = f"127.0.0.1:{other.sockets[0].getsockname()[1]}"
        for variable in ("SEAM_GRPC_LISTEN", "SEAM_HTTP_LISTEN"):
            variables = {"SEAM_API_KEYS": KEY, "SEAM_REPLICAS": "127.0.0.1:1", variable: taken}
            process = await started([], **variables)
            _, errors = await asyncio.wait_for(process.communicate(), 30)
            assert process.returncode == 1
            assert taken in errors.decode()
            assert "Traceback" not in errors.decode()


async def test_it_ends_with_the_process_that_started_it() -> None:
    variables = environment(SEAM_API_KEYS=KEY, SEAM_REPLICAS="127.0.0.1:1")
    command = [sys.executable, "-m", "business_svc", "--exit-with-parent"]
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({command!r}, stderr=subprocess.PIPE)\n"
        "child.stderr.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE)  # noqa: ASYNC220
    assert parent.stdout is not None
    child = int(await asyncio.to_thread(parent.stdout.readline))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await asyncio.to_thread(wait_until_gone, [child])


def test_a_ready_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text("old")
    write_ready_file(path, {"pid": 1})
    assert json.loads(path.read_text()) == {"pid": 1}
    assert os.listdir(tmp_path) == ["ready.json"]
