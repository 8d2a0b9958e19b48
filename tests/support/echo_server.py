"""`python -m support.echo_server`: a real inference server on echo models, in a process of its own.

It writes a ready file as `seam-inference` does, drains on SIGTERM, ends with code 1 when its device is lost, and on
SIGUSR1 writes into the state file what it holds, so that a test can look into a process it is about to hurt.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference_svc.engine.runner import Row, SampledToken
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.requests import Task
from inference_svc.server import InferenceServer, serve
from inference_svc.settings import Settings

from support.echo import EchoEncoder, EchoRunner, echo_model


class SlowEchoRunner(EchoRunner):
    """Each step takes a while, so that there is a middle of an answer to break."""

    def __init__(self, step_seconds: float, slot_count: int, max_context_tokens: int, loses_device: bool) -> None:
        super().__init__(slot_count=slot_count, max_context_tokens=max_context_tokens, loses_device=loses_device)
        self._step_seconds = step_seconds

    def step(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        time.sleep(self._step_seconds)
        return super().step(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    runner = SlowEchoRunner(options.step_seconds, options.slots, options.context, not options.sturdy)

    def load(spec: ModelSpec, _: object) -> LoadedModel:
        encoder = EchoEncoder(width=2 if spec.task is Task.SCORE else 8, loses_device=not options.sturdy)
        chosen = runner if spec.task is Task.GENERATE else encoder
        return echo_model(spec.name, spec.task, runner=chosen, step_token_budget=512)

    loop = asyncio.get_running_loop()
    leaving = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, leaving.set)
    settings = Settings(listen=options.listen, heartbeat_seconds=options.heartbeat_seconds)
    async with serve(settings, load=load) as server:
        loop.add_signal_handler(signal.SIGUSR1, lambda: _write(options.state_file, _state_of(server, runner)))
        await server.ready()
        _write(options.ready_file, {"grpc": server.address, "pid": os.getpid()})
        stopped = loop.create_task(leaving.wait())
        died = loop.create_task(server.died())
        await asyncio.wait((stopped, died), return_when=asyncio.FIRST_COMPLETED)
        await server.drain(options.drain_seconds)
        return 1 if died.done() else 0


def _state_of(server: InferenceServer, runner: EchoRunner) -> dict[str, Any]:
    return {
        "open_slots": len(runner.open_slots),
        "misuse": runner.misuse,
        "live_requests": server.engine.live_request_count,
        "sessions": server.session_service.session_count,
        "steps": runner.step_count,
        "computed_tokens": runner.computed_tokens,
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
    }


def _write(file: Path, content: dict[str, Any]) -> None:
    """Nobody reads half of it."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="echo_server")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--ready-file", type=Path, required=True)
    parser.add_argument("--state-file", type=Path, required=True)
    parser.add_argument("--step-seconds", type=float, default=0.002)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--heartbeat-seconds", type=float, default=0.5)
    parser.add_argument("--drain-seconds", type=float, default=5.0)
    parser.add_argument("--sturdy", action="store_true", help="no byte of a request can lose the device")
    return parser


if __name__ == "__main__":
    sys.exit(main())
