"""Business and echo replicas as processes of their own, that tell of themselves as their environment says.

As a program it is the replica: `python -m support.told_processes STEP_SECONDS`, with the settings of an inference
server in its environment; it prints its addresses, as JSON, and drains on SIGTERM.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.requests import Task
from inference_svc.server import serve
from inference_svc.settings import read_settings
from seam_telemetry.request_log import take_logs

from support.echo import echo_model
from support.echo_replica import PacedRunner

TESTS = Path(__file__).parent.parent
KEY = "a-key-that-is-long-enough"


async def main(step_seconds: float) -> None:
    def load(spec: ModelSpec, _: object) -> LoadedModel:
        runner = PacedRunner(step_seconds) if spec.task is Task.GENERATE else None
        return echo_model(spec.name, spec.task, runner=runner, step_token_budget=512)

    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    settings = read_settings(listen="127.0.0.1:0")
    take_logs(settings.telemetry.log_style)
    async with serve(settings, load=load) as server:
        await server.ready()
        print(json.dumps({"grpc": server.address, "metrics": server.metrics_address}), flush=True)
        await leaving.wait()
        await server.drain(5.0)


@dataclass(frozen=True)
class Told:
    """A process, where it serves, and the file of what it wrote to standard error."""

    process: asyncio.subprocess.Process
    grpc: str
    http: str
    metrics: str
    log: Path

    def kill(self) -> None:
        self.process.kill()

    async def leave(self) -> None:
        """In order; returns when it is gone."""
        self.process.terminate()
        async with asyncio.timeout(60):
            await self.process.wait()


@dataclass(frozen=True)
class System:
    business: Told
    replicas: tuple[Told, ...]


@asynccontextmanager
async def _process(words: list[str], log: Path, settings: Mapping[str, str]) -> AsyncIterator[Told]:
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path, **settings},
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(90):
            line = await process.stdout.readline()
        assert line, "it ended before it served"
        told = json.loads(line)
        yield Told(process, told["grpc"], told.get("http", ""), told.get("metrics", ""), log)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def told_system(
    *, replicas: int = 1, step_seconds: float = 0.002, settings: Mapping[str, str] | None = None
) -> AsyncIterator[System]:
    """A business in front of echo replicas; metrics are served, and what `settings` adds holds for all of them."""
    common = {
        "SEAM_METRICS_LISTEN": "127.0.0.1:0",
        "SEAM_INFERENCE_METRICS_LISTEN": "127.0.0.1:0",
        "SEAM_LINK_PLAINTEXT": "true",
        "SEAM_LOG_REQUESTS": "json",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        **(settings or {}),
    }
    with tempfile.TemporaryDirectory(prefix="seam-told-") as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            words = ["-m", "support.told_processes", str(step_seconds)]
            started = tuple(
                [
                    await stack.enter_async_context(_process(words, folder / f"replica-{number}", common))
                    for number in range(replicas)
                ]
            )
            own = {
                "SEAM_API_KEYS": f"acme:{KEY}",
                "SEAM_REPLICAS": ",".join(one.grpc for one in started),
                "SEAM_GRPC_LISTEN": "127.0.0.1:0",
                "SEAM_HTTP_LISTEN": "127.0.0.1:0",
            }
            words = ["-m", "support.told_business"]
            business = await stack.enter_async_context(_process(words, folder / "business", {**common, **own}))
            yield System(business, started)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
