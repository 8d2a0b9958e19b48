"""What every request passes before anything reads it: the key, and the limit of its size."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from business_svc.domain.access import KeyRing, presented_key
from business_svc.edge_http.errors_http import error_response
from business_svc.errors import Reason, SeamError, bad_field
from business_svc.observing import UNOBSERVED, Arrival, CallWatch, Edge, Observer
from business_svc.usecases.calling import Call

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
TIMEOUT_HEADER = "x-request-timeout"
CALL = "seam.call"
HANGING_UP = "seam.hanging_up"
WATCH = "seam.watch"
BODY_SECONDS = 30.0  # a body that has not arrived by then is given up
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
OTHER_METHOD = "_OTHER"  # by the conventions for HTTP: methods that callers invent make no series
CLIENT_GONE = 499  # as proxies call it: nobody was there to be answered


class Door:
    """ASGI: lets a request with a known key and a body within the limit in; its Call lies in the scope, and what
    tells that the server hangs up."""

    def __init__(self, app: ASGIApp, keys: KeyRing, max_body_bytes: int, observer: Observer = UNOBSERVED) -> None:
        self._app = app
        self._keys = keys
        self._observer = observer
        self._max_body_bytes = max_body_bytes
        self._closed = False
        self._hanging_up = asyncio.Event()
        self._arriving: set[asyncio.Timeout] = set()  # of bodies on their way

    def close(self) -> None:
        """New requests are refused with DRAINING."""
        self._closed = True

    def hang_up(self) -> None:
        """Requests still inside end with DRAINING."""
        self._hanging_up.set()
        for arriving in self._arriving:
            if not arriving.expired():
                arriving.reschedule(0.0)  # its time is up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
        arrival = Arrival(Edge.HTTP, method, headers.get("traceparent", ""), headers.get("tracestate", ""))
        watch = scope[WATCH] = self._observer.call(arrival)
        status = CLIENT_GONE

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._let_in(scope, headers, watch, receive, answer)
        finally:
            watch.ended(str(status), getattr(scope.get("route"), "path", ""))

    async def _let_in(self, scope: Scope, headers: Headers, watch: CallWatch, receive: Receive, send: Send) -> None:
        try:
            scope[CALL] = self._enter(headers, watch)
            scope[HANGING_UP] = self._hanging_up
            body = await self._body(headers, receive)
        except SeamError as error:
            watch.failed(error)
            await error_response(error)(scope, receive, send)
            return
        scope["headers"] = _as_json(scope["headers"])
        await self._app(scope, _after(body, receive), send)

    def _enter(self, headers: Mapping[str, str], watch: CallWatch) -> Call:
        if self._closed:
            raise SeamError(Reason.DRAINING, "the server stops and takes nothing new")
        caller = self._keys.identify(presented_key(headers.get("authorization"), headers.get("x-api-key")))
        watch.known(caller)
        return Call(
            caller,
            timeout=_timeout(headers.get(TIMEOUT_HEADER)),
            traceparent=watch.traceparent,
            tracestate=watch.tracestate,
            watch=watch,
        )

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        encoding = headers.get("content-encoding", "") or "identity"
        if encoding.lower() != "identity":
            raise bad_field("content-encoding", f"a body is taken uncompressed only, was {encoding[:40]!r}")
        told = headers.get("content-length", "")
        if told.isdecimal() and int(told) > self._max_body_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        async with self._in_time():
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise SeamError(Reason.CANCELLED, "the client closed the connection")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > self._max_body_bytes:
                    raise self._too_large()
                if not message.get("more_body", False):
                    return b"".join(parts)

    @asynccontextmanager
    async def _in_time(self) -> AsyncGenerator[None, None]:
        """For a body to arrive in. Raises DEADLINE_EXPIRED, or DRAINING when the server hangs up."""
        arriving = asyncio.timeout(BODY_SECONDS)
        try:
            async with arriving:
                self._arriving.add(arriving)
                yield
        except TimeoutError:
            if self._hanging_up.is_set():
                raise SeamError(Reason.DRAINING, "the server stops; the body had not arrived") from None
            late = f"the body did not arrive within {BODY_SECONDS:g} seconds"
            raise SeamError(Reason.DEADLINE_EXPIRED, late) from None
        finally:
            self._arriving.discard(arriving)

    def _too_large(self) -> SeamError:
        return SeamError(Reason.MESSAGE_TOO_LARGE, f"the body must have at most {self._max_body_bytes} bytes")


def call_of(request: Request) -> Call:
    """Who asks, as the door found."""
    call: Call = request.scope[CALL]
    return call


def _timeout(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = float("nan")
    if not 0 <= seconds < float("inf"):
        raise bad_field(TIMEOUT_HEADER, f"must be a number of seconds, at least 0, was {header[:40]!r}")
    return seconds


def _as_json(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Every body here is JSON, whatever the client's tool says of it (curl says that it is a form)."""
    others = [(name, value) for name, value in headers if name != b"content-type"]
    return [*others, (b"content-type", b"application/json")]


def _after(body: bytes, receive: Receive) -> Receive:
    """The body in one message, then whatever the connection says: that the client is gone."""
    told = False

    async def receive_after() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_after
