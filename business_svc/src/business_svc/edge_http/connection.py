"""A connection that the client may close at any moment, or stop reading."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from business_svc.edge_http.errors_http import error_body, error_response
from business_svc.edge_http.json_text import compact
from business_svc.errors import Reason, SeamError

Answer = TypeVar("Answer")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Does the work; cancels it when the client closes the connection, and raises CANCELLED then."""
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise SeamError(Reason.CANCELLED, "the client closed the connection")
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def answer_of(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """As while_connected, for a request that FastAPI has read."""
    return await while_connected(request.receive, work)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, one a piece of `pieces` (text of the event's data).

    The next piece is pulled when the connection took the one before: a reader who does not read holds up the answer,
    not the server's memory. What fails before the first piece is an HTTP error, what fails later an error event, after
    which the stream ends without [DONE]. `pieces` is closed whatever happens.
    """

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[str, None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._write(scope, receive, send))
        except SeamError as error:
            if error.reason is not Reason.CANCELLED:
                raise

    async def _write(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._pieces) as pieces:
            try:
                first = await anext(pieces)
            except SeamError as error:
                await error_response(error)(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await _send_event(send, first)
            try:
                async for piece in pieces:
                    await _send_event(send, piece)
                await _send_event(send, "[DONE]")
            except SeamError as error:
                await _send_event(send, compact(error_body(error)))
            except Exception:
                structlog.get_logger("business_svc").exception("a stream failed by a fault of the server")
                fault = SeamError(Reason.INTERNAL_FAULT, "a fault of the server; its log has more")
                await _send_event(send, compact(error_body(fault)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_event(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
