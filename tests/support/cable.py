"""A TCP connection that can be cut without either end being told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Cable:
    """Forwards bytes to `target` ("host:port") until it is cut; from then on it swallows them, new connections too."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._cut = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    def cut(self) -> None:
        self._cut.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream_reader, upstream_writer = await asyncio.open_connection(self._host, self._port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream_writer))
                group.create_task(self._pump(upstream_reader, writer))
        finally:
            self._tasks.discard(task)
            for one in (writer, upstream_writer):
                one.close()
                with suppress(OSError):
                    await one.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                if self._cut.is_set():
                    continue
                writer.write(piece)
                await writer.drain()
            writer.close()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def cable_to(target: str) -> AsyncIterator[Cable]:
    cable = Cable(target)
    server = await asyncio.start_server(cable._carry, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    cable.address = f"{host}:{port}"
    try:
        yield cable
    finally:
        server.close()
        await cable.stop()
        await server.wait_closed()
