"""Replicas as processes that a test starts and hurts."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

TESTS = Path(__file__).parent.parent
START_SECONDS = 120.0
END_SECONDS = 30.0


def python_path() -> str:
    """The tests' own packages, before what is there already."""
    return os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))


class ReplicaProcess:
    """One replica; `start` again after its end gives another process at the same address where that is a socket's
    path."""

    def __init__(self, folder: Path, words: tuple[str, ...], environment: dict[str, str]) -> None:
        self._folder = folder
        self._words = words
        self._environment = environment
        self._ready_file = folder / "ready.json"
        self._state_file = folder / "state.json"
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    async def start(self) -> None:
        """Returns when it serves."""
        self._ready_file.unlink(missing_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "PYTHONPATH": python_path(),
                    "OMP_NUM_THREADS": "1",
                    **self._environment,
                },
            )
        self.address = json.loads(await self._written(self._ready_file, START_SECONDS))["grpc"]

    async def _written(self, file: Path, seconds: float) -> str:
        """Polls: a file has no event."""
        try:
            async with asyncio.timeout(seconds):
                while not file.exists():  # noqa: ASYNC240 - a look at a local folder
                    if self.process.returncode is not None:
                        raise AssertionError(f"a replica ended with {self.process.returncode}:\n{self.log}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"no {file.name} after {seconds} s:\n{self.log}") from None
        return file.read_text()  # noqa: ASYNC240

    async def state(self) -> dict[str, Any]:
        """What an echo server holds now."""
        self._state_file.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        state: dict[str, Any] = json.loads(await self._written(self._state_file, END_SECONDS))
        return state

    async def idle(self, seconds: float = 10.0) -> dict[str, Any]:
        """Its state once it holds nothing; the last one seen when that does not come."""
        state: dict[str, Any] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (state := await self.state())["open_slots"] or state["live_requests"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        return state

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def leave(self) -> None:
        self.process.terminate()

    async def ended(self) -> int:
        async with asyncio.timeout(END_SECONDS):
            return await self.process.wait()

    @property
    def memory(self) -> int:
        """Resident bytes."""
        resident: int = psutil.Process(self.process.pid).memory_info().rss
        return resident

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self.go_on()
                self.kill()
            await self._process.wait()


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="seam")  # short: a Unix socket's path has 107 bytes


@asynccontextmanager
async def echo_server(*options: str, unix: bool = False) -> AsyncIterator[ReplicaProcess]:
    """A `support.echo_server`, ready."""
    with _folder() as name:
        folder = Path(name)
        listen = f"unix:{folder}/socket" if unix else "127.0.0.1:0"
        files = ("--ready-file", str(folder / "ready.json"), "--state-file", str(folder / "state.json"))
        words = (sys.executable, "-m", "support.echo_server", "--listen", listen, *files, *options)
        async with _running(ReplicaProcess(folder, words, {})) as replica:
            yield replica


@asynccontextmanager
async def seam_inference(**environment: str) -> AsyncIterator[ReplicaProcess]:
    """The product's own process with its embedded chat model, ready."""
    with _folder() as name:
        folder = Path(name)
        words = (sys.executable, "-m", "inference_svc", "--ready-file", str(folder / "ready.json"))
        settings = {
            "SEAM_EMBED_MODEL": "",
            "SEAM_SCORE_MODEL": "",
            "SEAM_TORCH_THREADS": "1",
            "SEAM_INFERENCE_LISTEN": "127.0.0.1:0",
            "SEAM_LINK_PLAINTEXT": "true",
            **environment,
        }
        async with _running(ReplicaProcess(folder, words, settings)) as replica:
            yield replica


@asynccontextmanager
async def _running(replica: ReplicaProcess) -> AsyncIterator[ReplicaProcess]:
    try:
        await replica.start()
        yield replica
    finally:
        await replica.end()
