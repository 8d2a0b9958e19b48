"""`seam-inference` as a process: how it starts, tells, and ends."""

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager

import pytest

PATIENCE = 100


@asynccontextmanager
async def process(*words, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEAM_")}
    environment |= {"SEAM_INFERENCE_LISTEN": "127.0.0.1:0", "SEAM_LINK_PLAINTEXT": "true"}
    environment |= {"SEAM_TORCH_THREADS": "1", "OMP_NUM_THREADS": "1"}
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "inference_svc", *words, env=environment | variables, stderr=asyncio.subprocess.PIPE
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


async def test_a_parent_that_is_gone_already_is_noticed():
    async with process("--exit-with-parent", "1" if os.getpid() != 1 else "2") as started:
        code, words = await ended(started)
        assert code == 1
        assert "parent" in words
