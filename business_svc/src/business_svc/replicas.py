"""The pool that the settings describe, kept up to date with where its replicas are."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from business_svc.link.discovery import Follower
from business_svc.link.duplex import Connector
from business_svc.link.grpc_duplex import GrpcConnector
from business_svc.link.pool import Pool, PoolSettings
from business_svc.observing import UNOBSERVED, Observer
from business_svc.settings import Settings


@asynccontextmanager
async def pool_of(
    settings: Settings, own: Sequence[Connector] = (), observer: Observer = UNOBSERVED
) -> AsyncGenerator[Pool, None]:
    """`own` are replicas that the settings do not name, as an engine in this process. Every source has been asked once
    when this is entered."""
    files = settings.link_files

    def connector(address: str, name: str | None) -> GrpcConnector:
        """Where DNS told an address, its replica must prove the name that was asked for."""
        tls = replace(files, server_name=files.server_name or name) if files is not None else None
        return GrpcConnector(address, tls=tls)

    pool_settings = PoolSettings(heartbeat_timeout=settings.heartbeat_timeout_seconds)
    async with Pool(own, pool_settings, observer=observer) as pool:
        follower = Follower(pool, settings.replica_sources(), connector, settings.drain_seconds)
        await follower.look()
        group = asyncio.TaskGroup()
        await group.__aenter__()
        following = group.create_task(follower.follow(), name="discovery")
        try:
            yield pool
        finally:
            following.cancel()
            await group.__aexit__(None, None, None)  # what is raised inside is not of the group, and stays as it is
