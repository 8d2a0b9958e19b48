"""A business server with its pool, and what both tell: all that one process holds of the business."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from seam_telemetry.providers import telemetry_of

from business_svc.link.duplex import Connector
from business_svc.link.pool import Pool
from business_svc.replicas import pool_of
from business_svc.server import Running, serve
from business_svc.settings import Settings
from business_svc.telemetry.instruments import watch_replicas
from business_svc.telemetry.observer import observer_of


@dataclass(frozen=True, slots=True, eq=False)
class WholeServer:
    """`metrics_address` is empty where no metrics are served."""

    pool: Pool
    running: Running
    metrics_address: str


@asynccontextmanager
async def whole_server(settings: Settings, own: Sequence[Connector] = ()) -> AsyncGenerator[WholeServer, None]:
    """As pool_of and serve; what they tell is flushed when this is left. Raises OSError, TlsFault."""
    with telemetry_of(settings.telemetry) as telemetry:
        observer = observer_of(telemetry)
        async with pool_of(settings, own, observer) as pool, serve(settings, pool, observer) as running:
            watch_replicas(telemetry.meter, pool.replicas)
            yield WholeServer(pool, running, telemetry.metrics_address)
