import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from business_svc.edge_http import connection
from business_svc.edge_http.connection import ClientGone, EventStream, while_connected
from business_svc.edge_http.door import HANGING_UP
from business_svc.edge_http.listening import bound_socket, told_address
from business_svc.errors import Reason, SeamError
from starlette.types import Message


class Wire:
    """An ASGI connection by hand."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.hanging_up = asyncio.Event()
        self.gone = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()

    @property
    def scope(self) -> dict[str, Any]:
        return {"type": "http", HANGING_UP: self.hanging_up}

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.takes.wait()
        self.sent.append(message)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


class Pieces:
    """Counts what was pulled; knows whether it was closed."""

    def __init__(self, *pieces: str | Exception) -> None:
        self._pieces = pieces
        self.pulled = 0
        self.closed = asyncio.Event()

    async def stream(self) -> AsyncGenerator[str, None]:
        try:
            for piece in self._pieces:
                self.pulled += 1
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed.set()


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise SeamError(Reason.QUEUE_FULL, "full")


async def test_work_that_ends_gives_its_answer_or_its_error() -> None:
    wire = Wire()
    assert await while_connected(wire.scope, wire.receive, asyncio.sleep(0, "done")) == "done"
    with pytest.raises(SeamError, match="full"):
        await while_connected(wire.scope, wire.receive, fail())


async def test_work_is_cancelled_when_the_client_goes_or_the_server_hangs_up() -> None:
    for leave, raised in (("gone", ClientGone), ("hanging_up", SeamError)):
        wire, begun, ended = Wire(), asyncio.Event(), asyncio.Event()

        async def work(begun: asyncio.Event = begun, ended: asyncio.Event = ended) -> None:
            begun.set()
            try:
                await forever()
            finally:
                ended.set()

        doing = asyncio.create_task(while_connected(wire.scope, wire.receive, work()))
        await begun.wait()
        getattr(wire, leave).set()
        with pytest.raises(raised):
            await asyncio.wait_for(doing, 5)
        assert ended.is_set()


async def test_cancelling_the_request_cancels_its_work() -> None:
    wire, begun, ended = Wire(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await forever()
        finally:
            ended.set()

    doing = asyncio.create_task(while_connected(wire.scope, wire.receive, work()))
    await begun.wait()
    doing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doing
    assert ended.is_set()


async def test_a_piece_is_pulled_when_the_one_before_it_was_taken() -> None:
    wire, pieces = Wire(), Pieces("a", "b", "c")
    wire.takes.clear()
    writing = asyncio.create_task(EventStream(pieces.stream(), 60)(wire.scope, wire.receive, wire.send))
    for _ in range(20):
        await asyncio.sleep(0)
    assert pieces.pulled == 1
    wire.takes.set()
    await asyncio.wait_for(writing, 5)
    assert wire.text == "data: a\n\ndata: b\n\ndata: c\n\ndata: [DONE]\n\n"
    assert pieces.closed.is_set()


async def test_a_reader_that_goes_while_nothing_is_taken_closes_the_stream() -> None:
    wire, pieces = Wire(), Pieces("a", "b")
    wire.takes.clear()
    writing = asyncio.create_task(EventStream(pieces.stream(), 60)(wire.scope, wire.receive, wire.send))
    for _ in range(20):
        await asyncio.sleep(0)
    wire.gone.set()
    await asyncio.wait_for(writing, 5)
    assert pieces.closed.is_set()
    assert wire.sent == []


async def test_who_does_not_read_is_cut_off_when_the_request_has_had_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LAST_WORDS_SECONDS", 0.05)
    wire, pieces = Wire(), Pieces("a", "b")
    wire.takes.clear()
    await asyncio.wait_for(EventStream(pieces.stream(), 0.05)(wire.scope, wire.receive, wire.send), 5)
    assert pieces.closed.is_set()
    assert wire.sent == []


async def test_who_reads_late_is_told_that_the_request_has_had_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LAST_WORDS_SECONDS", 0.5)
    wire, pieces = Wire(), Pieces("a", "b")
    stream = EventStream(pieces.stream(), 0.0)

    async def send(message: Message) -> None:
        if message.get("body", b"").startswith(b"data: b"):
            await forever()  # takes no more until the time is up
        await wire.send(message)

    await asyncio.wait_for(stream(wire.scope, wire.receive, send), 5)
    assert '"code":"deadline_expired"' in wire.text
    assert wire.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_server_that_stops_does_not_wait_for_who_does_not_read() -> None:
    wire, pieces = Wire(), Pieces("a", "b")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await forever()
        await wire.send(message)

    writing = asyncio.create_task(EventStream(pieces.stream(), 60)(wire.scope, wire.receive, send))
    await asyncio.sleep(0.01)
    stopped = asyncio.get_running_loop().time()
    wire.hanging_up.set()
    await asyncio.wait_for(writing, 5)
    assert asyncio.get_running_loop().time() - stopped < connection.LAST_WORDS_SECONDS
    assert pieces.closed.is_set()


async def test_what_fails_first_is_a_status_and_what_fails_later_an_event() -> None:
    wire = Wire()
    await EventStream(Pieces(SeamError(Reason.QUEUE_FULL, "full")).stream(), 60)(wire.scope, wire.receive, wire.send)
    assert wire.sent[0]["status"] == 429
    wire = Wire()
    await EventStream(Pieces("a", SeamError(Reason.QUEUE_FULL, "full")).stream(), 60)(
        wire.scope, wire.receive, wire.send
    )
    assert wire.sent[0]["status"] == 200
    assert wire.text.startswith('data: a\n\ndata: {"error":{"message":"full"')
    assert "[DONE]" not in wire.text
    assert wire.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_connections_send_small_writes_at_once() -> None:
    delays: asyncio.Queue[int] = asyncio.Queue(1)

    def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        delays.put_nowait(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    bound = bound_socket("127.0.0.1", 0)
    async with await asyncio.start_server(accepted, sock=bound):
        host, port = told_address(bound).split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        assert await asyncio.wait_for(delays.get(), 5) != 0
        writer.close()
        await writer.wait_closed()


def test_an_address_that_is_taken_is_named() -> None:
    with bound_socket("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            bound_socket("127.0.0.1", port)


def test_the_server_is_imported_without_torch() -> None:
    code = "import business_svc.server, business_svc.__main__, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
