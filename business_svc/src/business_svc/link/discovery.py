"""Learning which replicas there are while the pool runs: from a name that DNS answers, or a file that someone edits."""

import asyncio
import logging
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Never, Protocol

from business_svc.link.duplex import Connector

_log = logging.getLogger(__name__)


class DiscoveryFailed(Exception):
    """Nothing could be learnt; says why. Whoever was known stays."""


class Source(Protocol):
    async def addresses(self) -> frozenset[str]:
        """All replicas there are now. Raises DiscoveryFailed."""
        ...


class Replicas(Protocol):
    """The part of a pool that discovery changes."""

    def add(self, connector: Connector) -> None: ...

    def remove(self, address: str) -> None: ...


class DnsSource:
    """Every address that a name has, as a headless service of Kubernetes tells its pods."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def addresses(self) -> frozenset[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise DiscoveryFailed(f"{self._host} cannot be resolved: {error}") from error
        return frozenset(_address(family, where) for family, _, _, _, where in found)


def _address(family: int, where: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    host, port = where[0], where[1]
    return f"[{host!s}]:{port!s}" if family == socket.AF_INET6 else f"{host!s}:{port!s}"


class FileSource:
    """One address a line; what follows a # is not read. To be replaced in one move, not written in place."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def addresses(self) -> frozenset[str]:
        try:
            text = await asyncio.to_thread(self._path.read_text, "utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DiscoveryFailed(f"{self._path} cannot be read: {error}") from error
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        return frozenset(line for line in lines if line)


class Follower:
    """Keeps a pool's replicas those of a source. It removes only what it added: replicas from elsewhere stay."""

    def __init__(self, pool: Replicas, source: Source, connector: Callable[[str], Connector]) -> None:
        self._pool = pool
        self._source = source
        self._connector = connector
        self._added: frozenset[str] = frozenset()

    async def look(self) -> None:
        """Asks the source once. A source that fails changes nothing."""
        try:
            found = await self._source.addresses()
        except DiscoveryFailed as error:
            _log.warning("replicas stay as they were: %s", error)
            return
        for address in sorted(found - self._added):
            self._pool.add(self._connector(address))
        for address in sorted(self._added - found):
            self._pool.remove(address)
        self._added = found

    async def follow(self, interval: float) -> Never:
        """Looks about every `interval` seconds, many processes not in step; cancelling it ends it."""
        while True:
            await self.look()
            await asyncio.sleep(interval * random.uniform(0.75, 1.25))
