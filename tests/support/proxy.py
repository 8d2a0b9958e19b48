"""A TCP proxy that a test can cut like a cable: silent, and nobody is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_CHUNK = 64 * 1024


class Proxy:
    """Forwards to `target`. While it is silent nothing passes in either direction, connections stay open, new ones are
    accepted and hear nothing; what was sent meanwhile passes when it heals, late, as on a network."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self.bytes_passed = 0
        self._passes = asyncio.Event()
        self._passes.set()
        self._connections: set[asyncio.Task[None]] = set()

    def silence(self) -> None:
        self._passes.clear()

    def heal(self) -> None:
        self._passes.set()

    def sever(self) -> None:
        """Every connection is closed, and both ends see it."""
        for connection in self._connections:
            connection.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        host, _, port = self.target.rpartition(":")
        ends = [writer]
        try:
            await self._passes.wait()
            inward, outward = await asyncio.open_connection(host, int(port))
            ends.append(outward)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, outward))
                both.create_task(self._carry(inward, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # one end went away, or the test severed it: the other is closed below
        finally:
            self._connections.discard(task)
            for end in ends:
                end.close()
            for end in ends:
                with suppress(OSError):
                    await end.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while read := await reader.read(_CHUNK):
            await self._passes.wait()
            self.bytes_passed += len(read)
            writer.write(read)
            await writer.drain()
        raise ConnectionResetError("one side closed")


@asynccontextmanager
async def proxy_to(target: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        proxy.heal()
        while proxy._connections:
            proxy.sever()
            await asyncio.sleep(0.01)
