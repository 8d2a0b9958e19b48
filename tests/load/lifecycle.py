"""What others feel of a model that loads, and what memory comes back: `python -m load.lifecycle`, in tests/.

One process serves the tiny chat model; 16 streams of it run while the benchmark model (about 55M parameters) loads,
answers, sleeps, wakes and is unloaded. Gaps are between the frames of one session.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
from seam.inference.v1 import (
    inference_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    session_pb2,
    work_pb2,
)

from load.benchmark_models import generation_model

STREAMS = 16
MEGA = 1 << 20


@asynccontextmanager
async def server() -> AsyncGenerator[tuple[str, psutil.Process]]:
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        settings = {"SEAM_INFERENCE_LISTEN": "127.0.0.1:0", "SEAM_EMBED_MODEL": "", "SEAM_SCORE_MODEL": ""}
        words = [sys.executable, "-m", "inference_svc", "--ready-file", str(ready)]
        process = await asyncio.create_subprocess_exec(
            *words, env={"SEAM_TORCH_THREADS": "1", **os.environ, **settings}, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            while not ready.exists():  # noqa: ASYNC110 (a file has no event)
                await asyncio.sleep(0.05)
            yield json.loads(ready.read_text())["grpc"], psutil.Process(process.pid)
        finally:
            process.terminate()
            await process.wait()


class Streams:
    """Keeps 16 generations running over one session; `gaps` are the times between frames that had tokens."""

    def __init__(self, stub: Any) -> None:
        self._call = stub.Session()
        self._next = 0
        self.gaps: list[float] = []

    async def run(self) -> None:
        await self._call.write(session_pb2.SessionRequest(hello=session_pb2.Hello(protocol_revision=1)))
        await self._call.read()
        await self._submit(STREAMS)
        last = time.monotonic()
        while True:
            frame: Any = await self._call.read()
            if any(event.HasField("tokens") for event in frame.events):
                now = time.monotonic()
                self.gaps.append(now - last)
                last = now
            await self._submit(sum(event.HasField("finished") for event in frame.events))

    async def _submit(self, count: int) -> None:
        if not count:
            return
        stop = work_pb2.StopConditions(max_output_tokens=400, ignore_end_token=True)
        work = work_pb2.GenerateWork(prompt=work_pb2.Prompt(text="once upon a time"), stop=stop)
        ids = range(self._next + 1, self._next + 1 + count)
        self._next += count
        submits = [session_pb2.Submit(request_id=one, model="chat", generate=work) for one in ids]
        await self._call.write(session_pb2.SessionRequest(submits=submits))

    def take(self) -> str:
        gaps, self.gaps = sorted(self.gaps), []
        p50, p99, most = (1e3 * gap for gap in (gaps[len(gaps) // 2], gaps[len(gaps) * 99 // 100], gaps[-1]))
        return f"{len(gaps):5} frames, gap p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {most:.0f} ms"


async def main() -> None:
    source = str(generation_model())
    async with server() as (address, process), grpc.aio.insecure_channel(address) as channel:
        models: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        streams = Streams(inference_service_pb2_grpc.InferenceServiceStub(channel))
        running = asyncio.create_task(streams.run())

        async def step(name: str, work: Any) -> None:
            began = time.monotonic()
            await work
            seconds, resident = time.monotonic() - began, process.memory_info().rss / MEGA
            print(f"{name:10} {seconds:6.2f} s  RSS {resident:5.0f} MiB  {streams.take()}", flush=True)

        async def load() -> None:
            spec = model_service_pb2.ModelSpec(name="big", source=source, task=model_service_pb2.TASK_GENERATE)
            async for _ in models.LoadModel(model_service_pb2.LoadModelRequest(spec=spec)):
                pass

        await step("nothing", asyncio.sleep(3))
        for _ in range(3):
            await step("load 55M", load())
            await step("sleep", models.SleepModel(model_service_pb2.SleepModelRequest(name="big")))
            await step("wake", models.WakeModel(model_service_pb2.WakeModelRequest(name="big")))
            await step("unload", models.UnloadModel(model_service_pb2.UnloadModelRequest(name="big")))
            await step("nothing", asyncio.sleep(2))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
