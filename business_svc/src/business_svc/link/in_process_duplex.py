"""A replica in this very process, by the same frames."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse

from business_svc.link.duplex import DuplexLost

Serve = Callable[[AsyncIterator[SessionRequest]], AsyncGenerator[SessionResponse, None]]

_FRAMES_ON_THE_WAY = 16


class InProcessConnector:
    """`serve` is a session's service: frames in, frames out. With `serialize` every frame is encoded and parsed, as on
    a network; without, both sides hold the same message, which neither changes after sending."""

    def __init__(self, serve: Serve, *, serialize: bool = False, address: str = "in-process") -> None:
        self._serve = serve
        self._serialize = serialize
        self._address = address

    @property
    def address(self) -> str:
        return self._address

    @property
    def hop(self) -> float:
        return 0.0

    async def connect(self) -> "InProcessDuplex":
        return InProcessDuplex(self._serve, self._serialize)


class InProcessDuplex:
    """Owns the task that runs the service's side; closing cancels it, as a broken connection would."""

    def __init__(self, serve: Serve, serialize: bool) -> None:
        self._serialize = serialize
        self._requests: asyncio.Queue[SessionRequest] = asyncio.Queue(_FRAMES_ON_THE_WAY)
        self._responses: asyncio.Queue[SessionResponse | None] = asyncio.Queue(_FRAMES_ON_THE_WAY)
        self._fault: BaseException | None = None
        self._service = asyncio.create_task(self._run(serve), name="in-process session")

    async def _run(self, serve: Serve) -> None:
        try:
            async with aclosing(serve(self._incoming())) as responses:
                async for response in responses:
                    await self._responses.put(self._carried(response))
        except Exception as fault:  # this session's alone; told to its reader
            self._fault = fault
        await self._responses.put(None)

    async def _incoming(self) -> AsyncIterator[SessionRequest]:
        while True:
            yield await self._requests.get()

    def _carried(self, response: SessionResponse) -> SessionResponse:
        return SessionResponse.FromString(response.SerializeToString()) if self._serialize else response

    async def send(self, frame: SessionRequest) -> None:
        if self._service.done():
            raise self._lost()
        if self._serialize:
            frame = SessionRequest.FromString(frame.SerializeToString())
        await self._requests.put(frame)

    async def receive(self) -> SessionResponse | None:
        if self._service.done() and self._responses.empty():
            raise self._lost()
        response = await self._responses.get()
        if response is None and self._fault is not None:
            raise self._lost()
        return response

    def _lost(self) -> DuplexLost:
        lost = DuplexLost(f"the service in this process ended: {self._fault or 'it closed the session'}")
        lost.__cause__ = self._fault
        return lost

    async def aclose(self) -> None:
        self._service.cancel()
        await asyncio.wait([self._service])
