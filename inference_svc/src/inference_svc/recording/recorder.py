"""Records sessions without being felt by them: the event loop hands frames over, one thread redacts and writes."""

import logging
import queue
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

from seam.inference.v1 import session_pb2 as session_pb
from seam.recording.v1 import recording_pb2 as recording_pb

from inference_svc.errors import SeamError
from inference_svc.recording.digests import Digests, content_of
from inference_svc.recording.files import FORMAT_VERSION, SUFFIX
from inference_svc.recording.redaction import redacted, without_tenants
from inference_svc.recording.reel import Reel
from inference_svc.recording.settings import RecorderSettings
from inference_svc.wire.inference_wire import read_work
from inference_svc.wire.session_service import PROTOCOL_REVISION, Serve

BUFFER_BYTES = 16 * 1024 * 1024  # frames handed over and not yet written, of all sessions together
LAST_SECONDS = 5.0  # for what is still to be written when the server ends
FrameMessage = session_pb.SessionRequest | session_pb.SessionResponse
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Tape:
    """One session as the event loop sees it; `reel` belongs to the writing thread."""

    reel: Reel
    began: float
    recording: bool = True


@dataclass(frozen=True, slots=True)
class _Entry:
    """`frame` is None where the session, or its recording, ended for `reason`."""

    tape: _Tape
    offset: float = 0.0
    frame: FrameMessage | None = None
    size: int = 0
    reason: "recording_pb.EndReason.ValueType" = recording_pb.END_REASON_SESSION_ENDED


@dataclass(slots=True)
class _Buffer:
    """Bounded by bytes; the queue itself never waits."""

    entries: "queue.SimpleQueue[_Entry | None]" = field(default_factory=queue.SimpleQueue)
    size: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, size: int) -> bool:
        """Whether there is room for so much more."""
        with self.lock:
            if self.size + size > BUFFER_BYTES:
                return False
            self.size += size
            return True

    def give_back(self, size: int) -> None:
        with self.lock:
            self.size -= size


class Recorder:
    """Use as a context manager: entering makes the folder (OSError where it cannot be had), leaving ends every file.

    No session ever waits for it or fails by it. A session that brings more than can be written goes on unrecorded;
    where a file cannot be written at all, nothing is recorded any more. Either is told in the log once.
    """

    def __init__(
        self, settings: RecorderSettings, replica_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._replica_id = replica_id
        self._clock = clock
        self._digests = Digests(settings.key)
        self._buffer = _Buffer()
        self._stopped = False
        self._session_count = 0
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)

    def __enter__(self) -> Self:
        self._settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._buffer.entries.put(None)
        self._thread.join(LAST_SECONDS)

    # --- on the event loop ---

    async def recorded(
        self, serve: Serve, frames: AsyncIterator[session_pb.SessionRequest]
    ) -> AsyncGenerator[session_pb.SessionResponse, None]:
        """The session that `serve` makes of the frames, recorded."""
        tape = self._begin()
        try:
            async with aclosing(serve(self._listen(tape, frames))) as responses:
                async for response in responses:
                    self._hand_over(tape, response)
                    yield response
        finally:
            if tape.recording:
                self._buffer.entries.put(_Entry(tape))

    async def _listen(
        self, tape: _Tape, frames: AsyncIterator[session_pb.SessionRequest]
    ) -> AsyncIterator[session_pb.SessionRequest]:
        async for frame in frames:
            self._hand_over(tape, frame)
            yield frame

    def _begin(self) -> _Tape:
        self._session_count += 1
        now = datetime.now(UTC)
        header = recording_pb.Header(
            format_version=FORMAT_VERSION,
            protocol_revision=PROTOCOL_REVISION,
            side=recording_pb.SIDE_REPLICA,
            replica_id=self._replica_id,
            session_id=uuid.uuid4().hex,
            redaction=recording_pb.REDACTION_NONE if self._settings.plain else recording_pb.REDACTION_STAND_INS,
            key_check=self._digests.key_check,
            writer=f"seam-inference/{version('seam-inference')}",
        )
        header.begin_time.FromDatetime(now)
        name = f"{now:%Y%m%dT%H%M%S.%f}-{self._replica_id[:8]}-{self._session_count}"
        reel = Reel(header, lambda part: self._next_file(name, part), self._settings.file_bytes)
        return _Tape(reel, self._clock(), recording=not self._stopped)

    def _hand_over(self, tape: _Tape, frame: FrameMessage) -> None:
        """Frames are frozen once sent, so the thread may read them later."""
        if not tape.recording or self._stopped:
            return
        size = frame.ByteSize()
        if not self._buffer.take(size):
            tape.recording = False
            self._buffer.entries.put(_Entry(tape, reason=recording_pb.END_REASON_OVERFLOW))
            _log.warning("a session goes on unrecorded: %d bytes wait to be written already", self._buffer.size)
            return
        self._buffer.entries.put(_Entry(tape, self._clock() - tape.began, frame, size))

    # --- on the writing thread ---

    def _write_all(self) -> None:
        reels: set[Reel] = set()
        while (entry := self._buffer.entries.get()) is not None:
            self._buffer.give_back(entry.size)
            if self._stopped:
                continue
            try:
                self._write(entry, reels)
            except Exception as error:  # what becomes of a recording is no session's affair
                self._stopped = True
                _log.error("nothing is recorded any more: %s", error, exc_info=not isinstance(error, OSError))
                for reel in reels:
                    reel.abandon()
        for reel in reels:
            reel.abandon()

    def _write(self, entry: _Entry, reels: set[Reel]) -> None:
        reel = entry.tape.reel
        if entry.frame is None:
            reels.discard(reel)
            reel.end(entry.reason)
        else:
            reels.add(reel)
            reel.write(self._frame(entry.frame, entry.offset))

    def _frame(self, frame: FrameMessage, offset: float) -> recording_pb.Frame:
        plain, digests = self._settings.plain, self._digests
        record = recording_pb.Frame()
        record.offset.FromNanoseconds(round(offset * 1e9))
        if isinstance(frame, session_pb.SessionResponse):
            record.response.CopyFrom(frame if plain else redacted(frame, digests))
        else:
            record.request.CopyFrom((without_tenants if plain else redacted)(frame, digests))
            if not plain:
                record.submit_digests.extend(map(self._digest_of, frame.submits))
        return record

    def _digest_of(self, submit: session_pb.Submit) -> bytes:
        try:
            return self._digests.of_content(content_of(submit.model, read_work(submit)))
        except SeamError:
            return b""

    def _next_file(self, name: str, part: int) -> Path:
        """The oldest recordings of the folder make room for one more."""
        folder = self._settings.folder
        there = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.name)
        for old in there[: max(0, len(there) + 1 - self._settings.file_count)]:
            old.unlink(missing_ok=True)
        return folder / f"{name}-{part}{SUFFIX}"
