"""Learning which replicas there are while the pool runs: from a list, from a name that DNS answers, or from a file that
someone edits."""

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from business_svc.link.addresses import checked_address, is_unix
from business_svc.link.duplex import Connector

DNS = "dns:///"
FILE = "file:///"
_FILE_PAUSE = 0.5  # seconds between two looks at a file
_RESOLVE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class DiscoveryFailed(Exception):
    """Nothing could be learnt; says why. Whoever was known stays."""


class Source(Protocol):
    """`pause`: seconds between two looks; None where nothing changes. `name`: whose addresses these are, where they
    have a name together."""

    @property
    def pause(self) -> float | None: ...

    @property
    def name(self) -> str | None: ...

    async def addresses(self) -> frozenset[str]:
        """All replicas there are now. Raises DiscoveryFailed."""
        ...


class Replicas(Protocol):
    """The part of a pool that discovery changes."""

    def add(self, connector: Connector) -> None: ...

    def remove(self, address: str, grace: float = 0.0) -> None: ...


class Listed:
    """The addresses that were given."""

    pause = None
    name = None

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = frozenset(addresses)

    async def addresses(self) -> frozenset[str]:
        return self._addresses


Addresses = Sequence[tuple[int, str, int]]  # family, host, port


async def resolved(host: str, port: int) -> Addresses:
    """As this machine resolves names. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, str(where[0]), int(where[1])) for family, _, _, _, where in found]


class DnsSource:
    """Every address that a name has, as a headless service of Kubernetes tells its pods."""

    def __init__(
        self,
        host: str,
        port: int,
        pause: float = 5.0,
        resolve: Callable[[str, int], Awaitable[Addresses]] = resolved,
    ) -> None:
        self.name = host
        self.pause = pause
        self._port = port
        self._resolve = resolve

    async def addresses(self) -> frozenset[str]:
        try:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                found = await self._resolve(self.name, self._port)
        except TimeoutError:
            raise DiscoveryFailed(f"{self.name} was not resolved within {_RESOLVE_SECONDS:g} s") from None
        except OSError as error:
            raise DiscoveryFailed(f"{self.name} cannot be resolved: {error}") from error
        return frozenset(
            f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}" for family, host, port in found
        )


class FileSource:
    """One address a line; what follows a # is not read. To be replaced in one move, not written in place: a file that
    is empty counts as one that is being written."""

    name = None

    def __init__(self, path: Path, pause: float = _FILE_PAUSE) -> None:
        self.pause = pause
        self._path = path

    async def addresses(self) -> frozenset[str]:
        try:
            text = await asyncio.to_thread(self._path.read_text, "utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DiscoveryFailed(f"{self._path} cannot be read: {error}") from error
        if not text:
            raise DiscoveryFailed(f"{self._path} is empty; a comment alone says that there are no replicas")
        found = set()
        for number, line in enumerate(text.splitlines(), 1):
            entry = line.partition("#")[0].strip()
            try:
                found |= {checked_address(entry)} if entry else set()
            except ValueError as error:
                raise DiscoveryFailed(f"{self._path}, line {number}: {error}") from error
        return frozenset(found)


def sources_of(entries: Sequence[str], dns_pause: float) -> tuple[Source, ...]:
    """Of "host:port", "unix:/path", "dns:///name:port" or "file:///path". Raises ValueError with the entry."""
    listed = [checked_address(entry) for entry in entries if not entry.startswith((DNS, FILE))]
    sources: list[Source] = [Listed(listed)] if listed else []
    for entry in entries:
        if entry.startswith(DNS):
            sources.append(_dns_source(entry, dns_pause))
        elif entry.startswith(FILE):
            sources.append(FileSource(Path("/" + entry.removeprefix(FILE))))
    return tuple(sources)


def _dns_source(entry: str, pause: float) -> DnsSource:
    try:
        address = checked_address(entry.removeprefix(DNS))
    except ValueError:
        address = "unix:"
    if is_unix(address):
        raise ValueError(f"must be dns:///name:port, was {entry!r}")
    host, _, port = address.rpartition(":")
    return DnsSource(host.strip("[]"), int(port), pause)


class Follower:
    """Keeps a pool's replicas those of all its sources together. It removes only what it added: replicas from elsewhere
    stay. `grace`: seconds for what runs on a replica that leaves."""

    def __init__(
        self,
        pool: Replicas,
        sources: Sequence[Source],
        connector: Callable[[str, str | None], Connector],
        grace: float = 0.0,
    ) -> None:
        self._pool = pool
        self._connector = connector
        self._grace = grace
        self._found: dict[Source, frozenset[str]] = dict.fromkeys(sources, frozenset())
        self._told: dict[Source, str] = {}
        self._added: frozenset[str] = frozenset()

    async def look(self) -> None:
        """Asks every source once. A source that fails changes nothing."""
        for source in self._found:
            await self._look_at(source)

    async def follow(self) -> None:
        """Looks at each source again and again, many processes not in step; cancelling it ends it."""
        async with asyncio.TaskGroup() as group:
            for source in self._found:
                if source.pause is not None:
                    group.create_task(self._follow(source, source.pause))

    async def _follow(self, source: Source, pause: float) -> None:
        while True:
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))
            await self._look_at(source)

    async def _look_at(self, source: Source) -> None:
        try:
            self._found[source] = await source.addresses()
        except DiscoveryFailed as error:
            if self._told.get(source) != str(error):
                _log.warning("replicas stay as they were: %s", error)
            self._told[source] = str(error)
            return
        self._told.pop(source, None)
        everyone = frozenset[str]().union(*self._found.values())
        for address in sorted(everyone - self._added):
            self._pool.add(self._connector(address, source.name))
        for address in sorted(self._added - everyone):
            self._pool.remove(address, self._grace)
        if everyone != self._added:
            _log.info("replicas now: %s", ", ".join(sorted(everyone)) or "none")
        self._added = everyone
