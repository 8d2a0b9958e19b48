"""Opens sessions on one engine: how many there may be, the hello that begins one, and what a replica that leaves does
with them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Protocol

from seam.inference.v1 import session_pb2 as session_pb

from inference_svc.errors import Draining, MalformedFrame, ModelNotReady, ProtocolRevision, QueueFull
from inference_svc.wire.replica import Replica
from inference_svc.wire.session import MODELS_CHANGED, Session

PROTOCOL_REVISION = 1
MAX_HELLO_BYTES = 64 * 1024

Serve = Callable[[AsyncIterator[session_pb.SessionRequest]], AsyncGenerator[session_pb.SessionResponse, None]]


class Recorder(Protocol):
    def recorded(
        self, serve: Serve, frames: AsyncIterator[session_pb.SessionRequest]
    ) -> AsyncGenerator[session_pb.SessionResponse, None]:
        """The session that `serve` makes of the frames, frame by frame as it would be without being recorded."""
        ...


class SessionService:
    """Opens sessions on one replica. Owned by the event loop."""

    def __init__(self, replica: Replica, recorder: Recorder | None = None) -> None:
        self._replica = replica
        self._recorder = recorder
        self._sessions: set[Session] = set()
        self._stream_count = 0
        self._no_streams = asyncio.Event()
        self._no_streams.set()
        replica.catalogue.listen(self._models_changed)

    @property
    def session_count(self) -> int:
        return len(self._sessions)

    def drain(self) -> None:
        """From now on no session takes work; each says so, hands back what it holds, and ends."""
        self._replica.leave()
        for session in self._sessions:
            session.hand_back()

    async def ended(self) -> None:
        """Returns when no session is open."""
        await self._no_streams.wait()

    def session(
        self, frames: AsyncIterator[session_pb.SessionRequest]
    ) -> AsyncGenerator[session_pb.SessionResponse, None]:
        """The server's frames. Raises SeamError where the stream itself fails. Consume under `aclosing`: closing it
        cancels everything of the session."""
        return self._serve(frames) if self._recorder is None else self._recorder.recorded(self._serve, frames)

    async def _serve(
        self, frames: AsyncIterator[session_pb.SessionRequest]
    ) -> AsyncGenerator[session_pb.SessionResponse, None]:
        if self._replica.draining:
            raise Draining("this replica takes no new sessions")
        if not self._replica.catalogue.all_ready:
            raise ModelNotReady("models are loading")
        most = self._replica.limits.max_sessions
        if self._stream_count >= most:
            raise QueueFull(f"this replica has {most} sessions, the most it may", retry_after=1.0)
        self._stream_count += 1
        self._no_streams.clear()
        session = None
        try:
            hello = await self._hello(frames)
            session = Session(self._replica, hello)
            self._sessions.add(session)
            yield self._welcome(hello)
            session.start(frames)
            while (frame := await session.next_frame()) is not None:
                yield frame
        finally:
            self._stream_count -= 1
            if not self._stream_count:
                self._no_streams.set()
            if session is not None:
                self._sessions.discard(session)
                await session.close()

    async def _hello(self, frames: AsyncIterator[session_pb.SessionRequest]) -> session_pb.Hello:
        try:
            async with asyncio.timeout(self._replica.limits.hello_timeout):
                frame = await anext(frames)
        except StopAsyncIteration:
            raise MalformedFrame("the stream ended before a hello") from None
        except TimeoutError:
            raise MalformedFrame(f"no hello within {self._replica.limits.hello_timeout:g} s") from None
        if not frame.HasField("hello"):
            raise MalformedFrame("the first frame must have hello")
        if frame.submits or frame.cancels or frame.grants:
            raise MalformedFrame("the first frame must have hello alone")
        if frame.ByteSize() > MAX_HELLO_BYTES:
            raise MalformedFrame(f"a hello has at most {MAX_HELLO_BYTES} bytes")
        if frame.hello.protocol_revision < 1:
            raise ProtocolRevision(f"this server speaks revisions 1 to {PROTOCOL_REVISION}")
        return frame.hello

    def _welcome(self, hello: session_pb.Hello) -> session_pb.SessionResponse:
        return session_pb.SessionResponse(
            welcome=session_pb.Welcome(
                protocol_revision=min(hello.protocol_revision, PROTOCOL_REVISION),
                replica_id=self._replica.replica_id,
                models=self._replica.models(),
                capabilities=[f"heartbeat-ms={round(self._replica.limits.heartbeat * 1000)}", MODELS_CHANGED],
                max_live_requests=self._replica.limits.max_live_requests,
            ),
            load=self._replica.load(),
            totals=self._replica.totals(),
        )

    def _models_changed(self) -> None:
        for session in self._sessions:
            session.wake()
