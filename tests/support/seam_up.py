"""Seam started for real by its own command, on free ports, and looked after."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from support.processes import wait_until_gone

START_SECONDS = 150.0
STOP_SECONDS = 60.0
COMMAND = str(Path(sys.executable).parent / "seam-up")


class SeamUp:
    """A `seam-up` that was started; `ready` is its ready file's content."""

    def __init__(self, process: subprocess.Popen[bytes], ready_file: Path, log: Path) -> None:
        self.process = process
        self.ready_file = ready_file
        self._log = log
        self.ready: dict[str, Any] = {}

    @property
    def output(self) -> str:
        """All that it and its children wrote so far."""
        return self._log.read_text(errors="replace")

    def family(self) -> list[int]:
        """The pids of it and of everything that it started."""
        mother = psutil.Process(self.process.pid)
        return [mother.pid, *(child.pid for child in mother.children(recursive=True))]

    def ports(self) -> list[int]:
        """Every port that the ready file names."""
        addresses = [self.ready["grpc"], self.ready["http"], *self.ready["inference"]]
        return [int(address.rpartition(":")[2]) for address in addresses]

    def wait_ready(self) -> None:
        """Fails with its output when it ends first or takes too long."""
        self.wait_until(lambda: self.ready_file.exists(), "the ready file")
        self.ready = json.loads(self.ready_file.read_text())

    def wait_until(self, condition: Any, what: str, seconds: float = START_SECONDS) -> None:
        """Until the condition holds; fails with the output when it does not, or when seam-up ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(f"seam-up ended with {self.process.returncode} before {what}:\n{self.output}")
            if time.monotonic() > deadline:
                raise AssertionError(f"no sign of {what} after {seconds} s:\n{self.output}")
            time.sleep(0.05)

    def end(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"seam-up did not end within {STOP_SECONDS} s:\n{self.output}") from None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(number)
        return self.end()


@contextmanager
def seam_up(*options: str, ready: bool = True, **environment: str) -> Iterator[SeamUp]:
    """Run `seam-up` with the options (ports are free ones unless they say otherwise)."""
    with tempfile.TemporaryDirectory(prefix="seam-test-") as name:
        folder = Path(name)
        words = [COMMAND, "--grpc-port", "0", "--http-port", "0", "--ready-file", str(folder / "ready.json"), *options]
        settings = {**os.environ, "SEAM_TORCH_THREADS": "1", "OMP_NUM_THREADS": "1", **environment}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                words, env=settings, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        started = SeamUp(process, folder / "ready.json", folder / "log")
        try:
            if ready:
                started.wait_ready()
            yield started
        finally:
            _end(started)


def _end(started: SeamUp) -> None:
    """Nothing of a failed test goes on running."""
    if started.process.poll() is not None:
        return
    family = started.family()
    started.process.terminate()
    try:
        started.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in family:
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        started.process.wait()
    wait_until_gone(family)
