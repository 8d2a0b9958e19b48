"""A split Seam on an echo model: a real business process and a real inference process whose model only waits."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent.parent
KEY = "a-key-that-is-long-enough"
START_SECONDS = 60.0


@dataclass(frozen=True)
class EchoSystem:
    """Addresses are "host:port"; pids by name."""

    grpc: str
    http: str
    inference: str
    pids: Mapping[str, int]


@contextmanager
def echo_system(*, step_seconds: float, slots: int, **business: str) -> Iterator[EchoSystem]:
    """At most `slots` answers run at once, each gets a token a step. `business` are settings of that server."""
    with tempfile.TemporaryDirectory(prefix="seam-echo-") as name, ExitStack() as stack:
        folder = Path(name)
        model = stack.enter_context(
            _process(
                folder / "inference.json",
                {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
                "support.echo_server", "--state-file", str(folder / "state.json"),
                "--step-seconds", str(step_seconds), "--slots", str(slots),
            )
        )  # fmt: skip
        settings = {
            "SEAM_GRPC_LISTEN": "127.0.0.1:0",
            "SEAM_HTTP_LISTEN": "127.0.0.1:0",
            "SEAM_LINK_PLAINTEXT": "true",
            "SEAM_API_KEYS": KEY,
            "SEAM_REPLICAS": model["grpc"],
        }
        served = stack.enter_context(_process(folder / "business.json", settings | business, "business_svc"))
        pids = {"inference": model["pid"], "business": served["pid"]}
        yield EchoSystem(served["grpc"], served["http"], model["grpc"], pids)


@contextmanager
def _process(ready_file: Path, settings: Mapping[str, str], *words: str) -> Iterator[dict[str, object]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SEAM_")}
    command = [sys.executable, "-m", *words, "--ready-file", str(ready_file)]
    with (ready_file.with_suffix(".log")).open("wb") as log:
        process = subprocess.Popen(command, env=clean | dict(settings), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{words[0]} did not start:\n{ready_file.with_suffix('.log').read_text()}")
            time.sleep(0.02)
        yield json.loads(ready_file.read_text()) | {"pid": process.pid}
    finally:
        process.kill()
        process.wait()
