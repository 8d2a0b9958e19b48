"""A connection that the client may close at any moment, or stop reading."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from business_svc.edge_http.door import HANGING_UP
from business_svc.edge_http.errors_http import error_body, error_response
from business_svc.edge_http.json_text import compact
from business_svc.errors import Reason, SeamError

Answer = TypeVar("Answer")

LAST_WORDS_SECONDS = 5.0  # for a reader who reads slowly to be told why its answer ended
LAST_WORDS_AT_A_STOP = 0.3  # below what a server that stops leaves its connections


class ClientGone(SeamError):
    """Nobody is left to be told."""

    def __init__(self) -> None:
        super().__init__(Reason.CANCELLED, "the client closed the connection")


async def while_connected(scope: Scope, receive: Receive, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Does the work; cancels it when the client closes the connection (raises ClientGone) or when the server hangs up
    (raises DRAINING)."""
    hanging_up: asyncio.Event = scope[HANGING_UP]
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    stopping = asyncio.ensure_future(hanging_up.wait())
    try:
        await asyncio.wait((doing, leaving, stopping), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        if stopping.done():
            raise SeamError(Reason.DRAINING, "the server stops; the answer was not finished")
        raise ClientGone
    finally:
        for task in (doing, leaving, stopping):
            task.cancel()
        await asyncio.gather(doing, leaving, stopping, return_exceptions=True)


async def answer_of(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """As while_connected, for a request that FastAPI has read."""
    return await while_connected(request.scope, request.receive, work)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, one a piece of `pieces` (text of the event's data).

    The next piece is pulled when the connection took the one before: a reader who does not read holds up the answer,
    not the server's memory, and no longer than the request may take, `seconds`. What fails before the first piece is an
    HTTP error, what fails later an error event, after which the stream ends without [DONE]; one who does not read that
    either is cut off. `pieces` is closed whatever happens.
    """

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[str, None], seconds: float) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = asyncio.Event()
        try:
            async with asyncio.timeout(self._seconds + LAST_WORDS_SECONDS):  # what it waits for ends by itself before
                await while_connected(scope, receive, self._write(send, begun))
                await _send_end(send)
            return
        except ClientGone:
            return
        except TimeoutError:
            ended = SeamError(Reason.DEADLINE_EXPIRED, "the deadline passed, and the answer was not read")
        except SeamError as error:
            ended = error
        if not begun.is_set():
            await error_response(ended)(scope, receive, send)
            return
        hanging_up: asyncio.Event = scope[HANGING_UP]
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_AT_A_STOP if hanging_up.is_set() else LAST_WORDS_SECONDS):
                await _send_event(send, compact(error_body(ended)))
                await _send_end(send)

    async def _write(self, send: Send, begun: asyncio.Event) -> None:
        async with aclosing(self._pieces) as pieces:
            try:
                async for piece in pieces:
                    if not begun.is_set():
                        begun.set()
                        head = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                        await send(head)
                    await _send_event(send, piece)
                await _send_event(send, "[DONE]")
            except SeamError:
                raise
            except Exception as fault:
                logging.getLogger(__name__).exception("a stream failed by a fault of the server")
                raise SeamError(Reason.INTERNAL_FAULT, "a fault of the server; its log has more") from fault


async def _send_end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_event(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
