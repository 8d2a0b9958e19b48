"""A real inference server on echo models, in a process of its own that a test may kill, stop or ask to leave.

As a program it prints its address, and drains on SIGTERM: `python -m support.echo_replica HOST:PORT STEP_SECONDS`.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence

from inference_svc.engine.runner import Row, SampledToken
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.requests import Task
from inference_svc.server import serve
from inference_svc.settings import Settings

from support.chaos_processes import python_path
from support.echo import EchoRunner, echo_model


class PacedRunner(EchoRunner):
    """Each step takes a while, so that there is a middle of an answer to break."""

    def __init__(self, step_seconds: float) -> None:
        super().__init__(slot_count=64, max_context_tokens=2048)
        self._step_seconds = step_seconds

    def step(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        time.sleep(self._step_seconds)
        return super().step(rows)


async def main(listen: str, step_seconds: float) -> None:
    def load(spec: ModelSpec, _: object) -> LoadedModel:
        runner = PacedRunner(step_seconds) if spec.task is Task.GENERATE else None
        return echo_model(spec.name, spec.task, runner=runner, step_token_budget=512)

    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    async with serve(Settings(listen=listen), load=load) as server:
        await server.ready()
        print(server.address, flush=True)
        await leaving.wait()
        await server.drain(5.0)


class EchoReplica:
    """The process, seen from the test."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process = process
        self.address = address

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def leave(self) -> None:
        self.process.terminate()


@contextlib.asynccontextmanager
async def echo_replica(listen: str = "127.0.0.1:0", step_seconds: float = 0.002) -> AsyncIterator[EchoReplica]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.echo_replica",
        listen,
        str(step_seconds),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": python_path()},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            address = (await process.stdout.readline()).decode().strip()
        assert address, "the replica did not start"
        yield EchoReplica(process, address)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
