"""The file format: records of seam.recording.v1, each preceded by its size as a varint, as `google.protobuf.proto` has
it. Files of one session are its parts."""

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import proto
from google.protobuf.message import DecodeError
from seam.inference.v1 import session_pb2 as session_pb
from seam.recording.v1 import recording_pb2 as recording_pb

FORMAT_VERSION = 1
SUFFIX = ".frames"
_log = logging.getLogger(__name__)


class NotARecording(Exception):
    """A file cannot be read as a recording; names it and says why."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One session's frames, all its parts together, in order."""

    header: recording_pb.Header
    frames: tuple[recording_pb.Frame, ...]

    @property
    def is_redacted(self) -> bool:
        return self.header.redaction != recording_pb.REDACTION_NONE

    @property
    def welcome(self) -> session_pb.Welcome | None:
        """None where the session was refused."""
        return next((frame.response.welcome for frame in self.frames if frame.response.HasField("welcome")), None)


def written(record: recording_pb.Record) -> bytes:
    """A record as it stands in a file."""
    out = io.BytesIO()
    proto.serialize_length_prefixed(record, out)
    return out.getvalue()


def records_of(path: Path) -> Iterator[recording_pb.Record]:
    """In order. A last one that is torn is left out, with a line in the log."""
    with path.open("rb") as file:
        while True:
            try:
                record: recording_pb.Record | None = proto.parse_length_prefixed(recording_pb.Record, file)  # type: ignore[arg-type]
            except (DecodeError, ValueError, EOFError):
                _log.warning("%s was cut off: what follows its last whole record is left out", path)
                return
            if record is None:
                return
            yield record


def read_recordings(paths: Sequence[Path]) -> list[Recording]:
    """One for each session, as they came. Raises NotARecording, OSError."""
    parts: dict[str, list[tuple[recording_pb.Header, list[recording_pb.Frame]]]] = {}
    for path in paths:
        header, frames = _read(path)
        parts.setdefault(header.session_id, []).append((header, frames))
    return [_joined(sorted(found, key=lambda part: part[0].part)) for found in parts.values()]


def _read(path: Path) -> tuple[recording_pb.Header, list[recording_pb.Frame]]:
    records = records_of(path)
    first = next(records, None)
    if first is None or not first.HasField("header"):
        raise NotARecording(f"{path}: is no recording of a session")
    header = first.header
    if header.format_version != FORMAT_VERSION:
        raise NotARecording(f"{path}: has format version {header.format_version}; {FORMAT_VERSION} can be read here")
    return header, [record.frame for record in records if record.HasField("frame")]


def _joined(parts: Sequence[tuple[recording_pb.Header, list[recording_pb.Frame]]]) -> Recording:
    header, frames = parts[0]
    for _, more in parts[1:]:
        frames += [one for one in more if not one.request.HasField("hello") and not one.response.HasField("welcome")]
    return Recording(header, tuple(frames))
