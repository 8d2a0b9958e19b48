"""Both services in one event loop: the monolith, and the business process of a hybrid.

As a program (`python -m seam_local.one_process`) it is the supervised business process of a hybrid.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import business_svc.edge_tls
import business_svc.process
import business_svc.settings
import inference_svc.server
import inference_svc.settings
from business_svc.domain.inference import ReplicaState
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.pool import Pool
from inference_svc.errors import ModelLoadError
from inference_svc.wire.tls import TlsFault

from seam_local.faults import CannotServe
from seam_local.parent import end_with_parent
from seam_local.ready import forget_ready, write_ready

JOIN_SECONDS = 60.0  # until replicas that serve are reached


@dataclass(frozen=True, slots=True)
class Serving:
    """Addresses are host:port; `drain(seconds)` finishes what is being answered."""

    grpc: str
    http: str
    inference: str
    drain: Callable[[float], Coroutine[Any, Any, None]]
    metrics: tuple[str, ...] = ()


@asynccontextmanager
async def one_process(
    inference: inference_svc.settings.Settings, business: business_svc.settings.Settings
) -> AsyncGenerator[Serving, None]:
    """Serves until left. The engine here is one replica among those of the business settings, reached in memory."""
    async with inference_svc.server.serve(inference) as engine:
        await engine.ready()
        local = InProcessConnector(engine.session_service.session)
        async with business_svc.process.whole_server(business, [local]) as whole:
            await _all_in_use(whole.pool)
            edges = whole.running
            metrics = tuple(address for address in (whole.metrics_address, engine.metrics_address) if address)
            yield Serving(edges.grpc_address, edges.http_address, engine.address, edges.drain, metrics)


async def _all_in_use(pool: Pool) -> None:
    try:
        async with asyncio.timeout(JOIN_SECONDS):
            await pool.ready(len(pool.addresses))
    except TimeoutError:
        silent = [replica.address for replica in pool.replicas() if replica.state is not ReplicaState.READY]
        raise CannotServe(f"no answer from {', '.join(silent)} within {JOIN_SECONDS:.0f} s") from None


async def run_until_signalled(ready_file: Path) -> None:
    """Serve with the environment's settings until SIGTERM or SIGINT, then drain."""
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    business, inference = business_svc.settings.read_settings(), inference_svc.settings.read_settings()
    business.check_link()
    inference.check_link()
    async with one_process(inference, business) as serving:
        write_ready(
            ready_file,
            {
                "grpc": serving.grpc,
                "http": serving.http,
                "inference": serving.inference,
                "metrics": list(serving.metrics),
            },
        )
        await asked_to_stop.wait()
        forget_ready(ready_file)
        await serving.drain(business.drain_seconds)


def main() -> None:
    """Exits with 2 when the settings are wrong, 1 when a model or an address cannot be had."""
    parser = argparse.ArgumentParser(prog="seam_local.one_process", description=__doc__)
    parser.add_argument("--ready-file", type=Path, required=True)
    parser.add_argument("--exit-with-parent", type=int, metavar="PID")
    asked = parser.parse_args()
    if asked.exit_with_parent is not None:
        end_with_parent(asked.exit_with_parent)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(run_until_signalled(asked.ready_file))
    except (business_svc.settings.SettingsError, inference_svc.settings.SettingsError) as fault:
        print(fault, file=sys.stderr)
        sys.exit(2)
    except (ModelLoadError, CannotServe, TlsFault, business_svc.edge_tls.TlsFault, OSError) as fault:
        print(fault, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
