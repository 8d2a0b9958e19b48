"""`seam-inference` as a process: how it starts, tells, and ends."""

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from seam.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from support.echo import LOST
from support.session_client import SessionClient, generation

PATIENCE = 100


@asynccontextmanager
async def process(*words, module="inference_svc", **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEAM_")}
    environment |= {"SEAM_INFERENCE_LISTEN": "127.0.0.1:0", "SEAM_LINK_PLAINTEXT": "true"}
    environment |= {"SEAM_TORCH_THREADS": "1", "OMP_NUM_THREADS": "1"}
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *words, env=environment | variables, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()
        started._transport.close()


async def said(started, words):
    """Lines up to the one with these words."""
    lines = []
    async with asyncio.timeout(PATIENCE):
        while line := (await started.stderr.readline()).decode():
            lines.append(line)
            if words in line:
                return lines
    raise AssertionError(f"{words!r} was not said: {lines}")


async def ended(started):
    async with asyncio.timeout(PATIENCE):
        rest = (await started.stderr.read()).decode()
        return await started.wait(), rest


async def test_a_wrong_setting_is_one_line_and_exit_code_2():
    async with process(SEAM_CHAT_DEVICE="tpu") as started:
        code, words = await ended(started)
        assert code == 2
        assert words.count("\n") == 1
        assert "SEAM_CHAT_DEVICE" in words


async def test_a_taken_address_is_exit_code_1():
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    host, port = taken.sockets[0].getsockname()
    async with taken, process(SEAM_INFERENCE_LISTEN=f"{host}:{port}") as started:
        code, words = await ended(started)
        assert code == 1
        assert f"cannot listen on {host}:{port}" in words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_models_load_ends_the_process_in_order(number):
    async with process() as started:
        await said(started, "loading models")
        started.send_signal(number)
        code, _ = await ended(started)
        assert code == 0


async def test_a_model_that_cannot_be_had_is_one_clear_line_and_exit_code_1(tmp_path):
    only = {"SEAM_CHAT_MODEL": "", "SEAM_SCORE_MODEL": "", "SEAM_EMBED_MODEL": str(tmp_path / "none")}
    async with process("--ready-file", str(tmp_path / "ready"), **only) as started:
        code, words = await ended(started)
        assert code == 1
        last = words.splitlines()[-1]
        assert last.startswith("seam-inference: model embed")
        assert "none" in last
        assert not (tmp_path / "ready").exists()


async def test_the_ready_file_tells_address_and_pid_and_goes_at_the_end(tmp_path):
    ready = tmp_path / "ready.json"
    only = {"SEAM_CHAT_MODEL": "", "SEAM_SCORE_MODEL": ""}
    async with process("--ready-file", str(ready), **only) as started:
        await said(started, "ready:")
        async with asyncio.timeout(PATIENCE):
            while not ready.exists():  # noqa: ASYNC110 (a file has no event)
                await asyncio.sleep(0.01)
        told = json.loads(ready.read_text())
        assert told["pid"] == started.pid
        _, connection = await asyncio.open_connection(*told["grpc"].split(":"))
        connection.close()
        started.send_signal(signal.SIGTERM)
        code, words = await ended(started)
        assert code == 0
        assert "draining" in words
        assert not ready.exists()


async def test_a_lost_device_hands_its_work_back_and_ends_the_process_with_exit_code_1(tmp_path):
    ready = tmp_path / "ready.json"
    support = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    variables = {"PYTHONPATH": support, "SEAM_DRAIN_SECONDS": "5"}
    async with process("--ready-file", str(ready), module="support.losing_server", **variables) as started:
        address = (await said(started, "ready:"))[-1].split("ready: ")[1].split()[0]
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
            client = SessionClient(lambda frames: InferenceServiceStub(channel).Session(frames))
            client.hello()
            client.send(submits=[generation(1, tokens=90, credits=4), generation(2, tokens=90, credits=6)])
            await client.until(lambda: client.ids(1) and client.ids(2))
            client.send(submits=[generation(3, "mind the step " + chr(LOST))])
            await client.ended(1, 2, 3)
            for request_id in (1, 2, 3):
                failed = client.news[request_id][-1].failed
                assert failed.code == grpc.StatusCode.UNAVAILABLE.value[0]
                assert client.reason(request_id) == "ENGINE_STOPPED"
            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert (await client.closed()).code() == grpc.StatusCode.UNAVAILABLE
        code, words = await ended(started)
        assert code == 1
        assert "illegal memory access" in words.splitlines()[-1]
        assert not ready.exists()


async def test_a_parent_that_is_gone_already_is_noticed():
    async with process("--exit-with-parent", "1" if os.getpid() != 1 else "2") as started:
        code, words = await ended(started)
        assert code == 1
        assert "parent" in words
