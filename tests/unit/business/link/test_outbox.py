"""What a tick's frame says."""

from business_svc.link.outbox import Outbox
from seam.inference.v1.session_pb2 import SessionRequest, Submit


def submit(request_id: int, size: int = 1) -> Submit:
    made = Submit(request_id=request_id, model="embed")
    made.embed.texts.append("x" * size)
    return made


def ids(frame: SessionRequest) -> list[int]:
    return [one.request_id for one in frame.submits]


def test_all_news_of_a_tick_share_one_frame() -> None:
    outbox = Outbox(1_000_000)
    for request_id in (1, 2, 3):
        outbox.submit(submit(request_id))
    outbox.grant(9, 4)
    outbox.grant(9, 4)
    outbox.cancel(8)
    [frame] = outbox.frames()
    assert ids(frame) == [1, 2, 3]
    assert [(one.request_id, one.credits) for one in frame.grants] == [(9, 8)]
    assert [one.request_id for one in frame.cancels] == [8]
    assert list(outbox.frames()) == []


def test_a_request_cancelled_before_it_was_sent_leaves_no_trace() -> None:
    outbox = Outbox(1_000_000)
    outbox.submit(submit(1))
    outbox.submit(submit(2))
    assert not outbox.cancel(1)
    [frame] = outbox.frames()
    assert ids(frame) == [2]
    assert not frame.cancels


def test_a_cancelled_request_is_granted_nothing_more() -> None:
    outbox = Outbox(1_000_000)
    outbox.grant(1, 4)
    outbox.cancel(1)
    [frame] = outbox.frames()
    assert not frame.grants


def test_frames_keep_to_their_size_and_to_the_order_of_requests() -> None:
    outbox = Outbox(1000)
    for request_id in range(10):
        outbox.submit(submit(request_id, 300))
    frames = list(outbox.frames())
    assert all(frame.ByteSize() <= 1100 for frame in frames)
    assert [one for frame in frames for one in ids(frame)] == list(range(10))
