"""Recording is not felt: sessions go on whatever becomes of the file."""

import logging
import os
from contextlib import aclosing
from pathlib import Path

import pytest
from inference_svc.recording.files import NotARecording, read_recordings, records_of, written
from inference_svc.recording.recorder import BUFFER_BYTES, Recorder
from inference_svc.recording.reel import Reel
from inference_svc.recording.settings import RecorderSettings
from seam.inference.v1 import session_pb2
from seam.recording.v1 import recording_pb2


async def serve(frames):
    """A welcome for the first frame, then a frame of load for each."""
    async for frame in frames:
        if frame.HasField("hello"):
            yield session_pb2.SessionResponse(welcome={"replica_id": "r"})
        else:
            yield session_pb2.SessionResponse(load={"state": 1})


async def session(recorder, count, text="x" * 1000):
    """What the client gets of a session of `count` frames."""

    async def frames():
        yield session_pb2.SessionRequest(hello={"protocol_revision": 1})
        for number in range(count):
            submit = {"request_id": number, "model": "chat", "generate": {"prompt": {"text": text}}}
            yield session_pb2.SessionRequest(submits=[submit])

    async with aclosing(recorder.recorded(serve, frames())) as responses:
        return [response async for response in responses]


def files(folder):
    return sorted(folder.glob("*.frames"))


def kinds(path):
    return [record.WhichOneof("record") for record in records_of(path)]


async def test_a_session_is_in_its_file_frame_by_frame_in_both_directions(tmp_path: Path):
    with Recorder(RecorderSettings(tmp_path / "made", plain=True), "replica") as recorder:
        given = await session(recorder, 3)
    [path] = files(tmp_path / "made")
    assert path.stat().st_mode & 0o777 == 0o600
    assert kinds(path) == ["header", *["frame"] * 8, "end"]
    [recording] = read_recordings([path])
    assert recording.header.side == recording_pb2.SIDE_REPLICA
    assert recording.header.protocol_revision == 1
    assert recording.welcome.replica_id == "r"
    assert [f.response for f in recording.frames if f.HasField("response")] == given
    offsets = [frame.offset.ToNanoseconds() for frame in recording.frames]
    assert offsets == sorted(offsets)


async def test_a_file_that_is_full_is_followed_by_another_and_all_are_one_recording(tmp_path: Path):
    settings = RecorderSettings(tmp_path, plain=True, file_bytes=20_000, file_count=16)
    with Recorder(settings, "replica") as recorder:
        await session(recorder, 100)
    paths = sorted(files(tmp_path), key=lambda path: int(path.stem.rpartition("-")[2]))
    assert len(paths) > 4
    assert all(path.stat().st_size <= 20_000 for path in paths)
    for path in paths:
        [part] = read_recordings([path])
        assert part.welcome is not None  # each part can be read alone
    [recording] = read_recordings(paths[::-1])
    numbers = [submit.request_id for frame in recording.frames for submit in frame.request.submits]
    assert numbers == list(range(100))
    assert sum(frame.request.HasField("hello") for frame in recording.frames) == 1


async def test_the_oldest_recordings_make_room(tmp_path: Path):
    with Recorder(RecorderSettings(tmp_path, plain=True, file_count=2), "replica") as recorder:
        for _ in range(5):
            await session(recorder, 1)
    assert len(files(tmp_path)) == 2


async def test_a_disk_that_takes_nothing_fails_no_session_and_is_told_once(tmp_path: Path, caplog):
    with Recorder(RecorderSettings(tmp_path, plain=True), "replica") as recorder:
        os.rmdir(tmp_path)  # no file can be made from now on
        for _ in range(3):
            assert len(await session(recorder, 50)) == 51
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "nothing is recorded any more" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device on this system")
def test_a_full_disk_is_an_error_of_the_reel_which_closes_its_file():
    file = os.open("/dev/full", os.O_WRONLY)
    reel = Reel(recording_pb2.Header(), lambda part: Path("never asked"), 1 << 20)
    reel._file = file
    with pytest.raises(OSError, match="No space left"):
        reel.end(recording_pb2.END_REASON_SESSION_ENDED)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


async def test_more_than_can_be_written_ends_the_recording_and_not_the_session(tmp_path: Path, caplog):
    recorder = Recorder(RecorderSettings(tmp_path, plain=True), "replica")
    frames = BUFFER_BYTES // 1_000_000 + 5
    assert len(await session(recorder, frames, "y" * 1_000_000)) == frames + 1
    with recorder:  # its thread starts only now, so everything had to wait
        pass
    [path] = files(tmp_path)
    *_, end = records_of(path)
    assert end.end.reason == recording_pb2.END_REASON_OVERFLOW
    assert caplog.text.count("goes on unrecorded") == 1
    assert path.stat().st_size <= BUFFER_BYTES + 1_000_000


async def test_a_torn_file_is_read_up_to_its_last_whole_record(tmp_path: Path, caplog):
    with Recorder(RecorderSettings(tmp_path, plain=True), "replica") as recorder:
        await session(recorder, 5)
    [path] = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    [recording] = read_recordings([path])
    assert 6 <= len(recording.frames) < 12
    assert "was cut off" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no recording at all", b"\x00" * 40])
def test_what_is_no_recording_is_refused_by_name(tmp_path: Path, content):
    path = tmp_path / "other.frames"
    path.write_bytes(content)
    with pytest.raises(NotARecording, match=r"other\.frames"):
        read_recordings([path])


def test_a_later_format_is_refused(tmp_path: Path):
    path = tmp_path / "later.frames"
    path.write_bytes(written(recording_pb2.Record(header=recording_pb2.Header(format_version=2))))
    with pytest.raises(NotARecording, match="format version 2"):
        read_recordings([path])
