"""The business server as a process of its own: `seam-business`."""

import argparse
import asyncio
import ctypes
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from seam_telemetry.request_log import take_logs

from business_svc.edge_tls import TlsFault
from business_svc.process import WholeServer, whole_server
from business_svc.server import Running
from business_svc.settings import PREFIX, Settings, SettingsError, read_settings

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT_CHECK_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits with 0 after an orderly end, 2 when the settings are wrong, 1 when an address or a certificate
    cannot be had."""
    parser = argparse.ArgumentParser(
        prog="seam-business",
        description="Serves the business over gRPC and HTTP, in front of running inference replicas. "
        "Settings come from the environment (SEAM_API_KEYS, SEAM_REPLICAS, SEAM_GRPC_LISTEN, SEAM_HTTP_LISTEN, ...).",
    )
    parser.add_argument("--ready-file", type=Path, help="JSON written when it serves and a replica is in use")
    parser.add_argument(
        "--exit-with-parent",
        type=int,
        nargs="?",
        const=os.getppid(),
        metavar="PID",
        help="end when the process that started it ends; its PID, where given, also tells that it has ended already",
    )
    asked = parser.parse_args(arguments)
    parent: int | None = asked.exit_with_parent
    if parent is not None:
        _die_with(parent)
    try:
        settings = read_settings()
        if not settings.replicas:
            raise SettingsError(
                f"{PREFIX}REPLICAS: must name at least one replica, as host:port, dns:///name:port or file:///path"
            )
        settings.check_link()
        take_logs(settings.telemetry.log_style)
    except SettingsError as error:
        sys.exit(_complaint(str(error), 2))
    ready_file: Path | None = asked.ready_file
    try:
        asyncio.run(_run(settings, ready_file, parent))
    except (OSError, TlsFault) as error:
        sys.exit(_complaint(str(error), 1))
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


def _say(message: str) -> None:
    print(f"seam-business: {message}", file=sys.stderr, flush=True)


def _complaint(message: str, code: int) -> int:
    _say(message)
    return code


async def _run(settings: Settings, ready_file: Path | None, parent: int | None) -> None:
    asked_to_stop, asked_again = asyncio.Event(), asyncio.Event()
    _listen_for_signals(asked_to_stop, asked_again)
    async with whole_server(settings) as server, asyncio.TaskGroup() as group:
        running = server.running
        helpers = [group.create_task(_announce(server, ready_file))]
        if parent is not None:
            helpers.append(group.create_task(_watch_parent(parent, asked_to_stop)))
        await asked_to_stop.wait()
        for helper in helpers:
            helper.cancel()
        _say(f"finishes what runs, for at most {settings.drain_seconds:g} seconds; a second signal ends it")
        await _drain_unless(asked_again, running, settings.drain_seconds)


def _listen_for_signals(first: asyncio.Event, second: asyncio.Event) -> None:
    def asked() -> None:
        (second if first.is_set() else first).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)


async def _drain_unless(asked_again: asyncio.Event, running: Running, grace: float) -> None:
    """A second signal ends the drain."""
    draining = asyncio.ensure_future(running.drain(grace))
    hurrying = asyncio.ensure_future(asked_again.wait())
    try:
        await asyncio.wait((draining, hurrying), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (draining, hurrying):
            task.cancel()
        await asyncio.gather(draining, hurrying, return_exceptions=True)


async def _announce(server: WholeServer, ready_file: Path | None) -> None:
    running = server.running
    addresses = {"grpc": running.grpc_address, "http": running.http_address}
    _say(f"gRPC on {running.grpc_address}, HTTP on {running.http_address}")
    if server.metrics_address:
        addresses["metrics"] = server.metrics_address
        _say(f"metrics on http://{server.metrics_address}/metrics")
    await server.pool.ready()
    _say("a replica is in use")
    if ready_file is not None:
        write_ready_file(ready_file, {**addresses, "pid": os.getpid()})


def write_ready_file(path: Path, told: dict[str, object]) -> None:
    """Whole or not at all: whoever waits for the file never reads half of it."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        json.dump(told, file)
    os.replace(file.name, path)


def _die_with(parent: int) -> None:
    """Linux ends this process with its parent, however that ended; elsewhere _watch_parent sees it a little later. The
    parent may have ended before the request was made: then its id has changed already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


async def _watch_parent(parent: int, asked_to_stop: asyncio.Event) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 (no system tells of it)
        await asyncio.sleep(PARENT_CHECK_SECONDS)
    asked_to_stop.set()


if __name__ == "__main__":
    main()
