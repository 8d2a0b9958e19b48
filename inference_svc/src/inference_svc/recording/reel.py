"""The files of one session: one part after the other, each bounded. Belongs to the thread that writes."""

import os
from collections.abc import Callable
from pathlib import Path

from seam.recording.v1 import recording_pb2 as recording_pb

from inference_svc.recording.files import written

_ROOM_FOR_THE_END = 16  # bytes


class Reel:
    """`next_file` names a part's file, and makes room for it. Every method raises OSError."""

    def __init__(self, header: recording_pb.Header, next_file: Callable[[int], Path], most_bytes: int) -> None:
        self._header = header
        self._next_file = next_file
        self._most_bytes = most_bytes
        self._opening: list[bytes] = []  # hello and welcome, to open every part with
        self._file: int | None = None
        self._size = 0

    def write(self, frame: recording_pb.Frame) -> None:
        content = written(recording_pb.Record(frame=frame))
        if self._file is None:
            self._open()
        elif self._size + len(content) + _ROOM_FOR_THE_END > self._most_bytes:
            self.end(recording_pb.END_REASON_FULL)
            self._open()
        self._put(content)
        if frame.request.HasField("hello") or frame.response.HasField("welcome"):
            self._opening.append(content)

    def end(self, reason: "recording_pb.EndReason.ValueType") -> None:
        """Nothing is left open; to be called again it is too late."""
        if self._file is None:
            return
        try:
            self._put(written(recording_pb.Record(end=recording_pb.End(reason=reason))))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Closes without a word."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _open(self) -> None:
        self._header.part += 1
        path = self._next_file(self._header.part)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._size = 0
        for content in (written(recording_pb.Record(header=self._header)), *self._opening):
            self._put(content)

    def _put(self, content: bytes) -> None:
        """At once, record by record: what was written is there if the process dies, and other threads have a turn."""
        assert self._file is not None
        left = memoryview(content)
        while left:
            left = left[os.write(self._file, left) :]
        self._size += len(content)
