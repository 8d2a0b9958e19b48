"""One child process: started, listened to, waited for, stopped."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seam_local.faults import CannotServe, StartTimeout
from seam_local.ready import forget_ready, read_ready

READY_POLL_SECONDS = 0.05
LAST_LINES = 12
MAX_LINE_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended, for people."""

    name: str
    pid: int
    return_code: int
    last_lines: tuple[str, ...]

    def describe(self) -> str:
        """Which, how, and the last it said."""
        lines = "".join(f"\n    {line}" for line in self.last_lines)
        said = f"; its last lines:{lines}" if lines else "; it said nothing"
        return f"{self.name} (pid {self.pid}) {self.how()}{said}"

    def how(self) -> str:
        """The exit code, or the signal that killed it."""
        if self.return_code >= 0:
            return f"ended with exit code {self.return_code}"
        try:
            name = signal.Signals(-self.return_code).name
        except ValueError:
            name = str(-self.return_code)
        return f"was killed by {name}"


class ChildDied(CannotServe):
    """A child ended that was needed."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.describe())
        self.ending = ending


class Child:
    """A process of its own group (a terminal's Ctrl-C reaches only the supervisor, which stops children in order)."""

    def __init__(self, name: str, process: Process, ready_file: Path, say: Callable[[str, str], None]) -> None:
        self.name = name
        self._process = process
        self._ready_file = ready_file
        self._say = say
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._reading = asyncio.create_task(self._read(), name=f"output of {name}")

    @classmethod
    async def start(
        cls,
        name: str,
        words: Sequence[str],
        environment: Mapping[str, str],
        ready_file: Path,
        say: Callable[[str, str], None],
    ) -> "Child":
        """Start it. `say(name, line)` gets each line of its output."""
        forget_ready(ready_file)
        process = await asyncio.create_subprocess_exec(
            *words, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True
        )
        return cls(name, process, ready_file, say)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def ready(self, timeout: float) -> dict[str, Any]:
        """What it wrote when it served. Raises ChildDied when it ends first, StartTimeout when it takes too long."""
        try:
            async with asyncio.timeout(timeout):
                while (content := read_ready(self._ready_file)) is None:
                    if not self.is_alive:
                        raise ChildDied(await self.ended())
                    await asyncio.sleep(READY_POLL_SECONDS)
                return content
        except TimeoutError:
            raise StartTimeout(f"{self.name} (pid {self.pid}) was not ready after {timeout:.0f} s") from None

    async def ended(self) -> Ending:
        """Wait for its end and the rest of its output."""
        code = await self._process.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.shield(self._reading)
        return Ending(self.name, self.pid, code, tuple(self._last_lines))

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL when `grace` seconds were not enough."""
        if self.is_alive:
            with suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(grace):
                    await self._process.wait()
            except TimeoutError:
                self._say(self.name, f"did not stop within {grace:.0f} s: killed")
                self.kill()
        await self.ended()
        self._reading.cancel()

    def kill(self) -> None:
        """At once, with whatever it started. Only while it lives: afterwards its group's number may be another's."""
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in _lines(self._process.stdout):
            self._last_lines.append(line)
            self._say(self.name, line)


async def _lines(stream: asyncio.StreamReader) -> AsyncGenerator[str, None]:
    """Lines of a stream; a line without end is cut at MAX_LINE_BYTES."""
    rest = b""
    while chunk := await stream.read(MAX_LINE_BYTES):
        *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            whole, rest = [*whole, rest], b""
        for line in whole:
            if text := line.decode(errors="replace").rstrip():
                yield text
    if text := rest.decode(errors="replace").rstrip():
        yield text
