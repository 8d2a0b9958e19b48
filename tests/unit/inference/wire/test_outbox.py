"""What waits for a slow reader, and what a frame holds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from inference_svc.errors import Cancelled, DuplicateRequest
from inference_svc.requests import (
    Accepted,
    Failed,
    Finished,
    FinishReason,
    PositionLogprobs,
    Timings,
    TokenLogprob,
    Tokens,
    Usage,
    Vector,
    Vectors,
)
from inference_svc.wire.outbox import FRAME_BYTES, Outbox
from seam.inference.v1.session_pb2 import SessionResponse

END = Finished(FinishReason.LENGTH, Usage(1, 1), Timings(0, 0))


def fill(outbox):
    frame = SessionResponse()
    written = outbox.fill(frame)
    return frame, [request_id for request_id, _, ended in written if ended]


def test_news_waits_in_the_order_of_each_request_and_merges_tokens():
    outbox = Outbox()
    outbox.put(1, Accepted(3))
    for token in range(100):
        outbox.put(1, Tokens((token,), "x"))
        outbox.put(2, Tokens((token,), "y"))
    outbox.put(1, END)
    frame, ended = fill(outbox)
    assert [(event.request_id, event.WhichOneof("event")) for event in frame.events] == [
        (1, "accepted"),
        (1, "tokens"),
        (1, "finished"),
        (2, "tokens"),
    ]
    assert list(frame.events[1].tokens.ids) == list(range(100))
    assert frame.events[3].tokens.text == "y" * 100
    assert ended == [1]
    assert not outbox


def test_plain_tokens_go_in_columns_where_the_peer_reads_them_and_everything_else_in_events():
    outbox = Outbox(columns=True)
    for request_id, text in ((1, "a"), (2, "\u00e9"), (3, "c")):
        outbox.put(request_id, Tokens((request_id,), text))
        outbox.put(request_id, Tokens((request_id + 10,), ""))
    outbox.put(3, END)
    chosen = PositionLogprobs(TokenLogprob(4, -1.0, "d"), ())
    outbox.put(4, Tokens((4,), "d", (chosen,)))
    frame, ended = fill(outbox)
    assert list(frame.tokens.request_ids) == [1, 2]
    assert list(frame.tokens.id_counts) == [2, 2]
    assert list(frame.tokens.ids) == [1, 11, 2, 12]
    assert list(frame.tokens.text_byte_counts) == [1, 2]
    assert frame.tokens.text == "a\u00e9"
    assert [(event.request_id, event.WhichOneof("event")) for event in frame.events] == [
        (3, "tokens"),
        (3, "finished"),
        (4, "tokens"),
    ]
    assert ended == [3]


def test_a_refusal_is_not_the_end_of_a_live_request():
    outbox = Outbox()
    outbox.put(1, Accepted(3))
    outbox.refuse(1, Failed(DuplicateRequest("again")))
    frame, ended = fill(outbox)
    assert {event.WhichOneof("event") for event in frame.events} == {"accepted", "failed"}
    assert ended == []


def test_a_failure_is_an_end():
    outbox = Outbox()
    outbox.put(1, Failed(Cancelled("gone")))
    assert fill(outbox)[1] == [1]


def test_a_frame_is_closed_when_it_is_big_and_the_rest_comes_in_the_next():
    outbox = Outbox()
    vector = np.ones(1024, np.float32)
    for request_id in range(400):
        outbox.put(request_id, Vectors((Vector(0, vector, 1, False), Vector(1, vector, 1, False))))
        outbox.put(request_id, END)
    seen, sizes = [], []
    while outbox:
        frame, ended = fill(outbox)
        seen += ended
        sizes.append(frame.ByteSize())
    assert sorted(seen) == list(range(400))
    assert len(sizes) > 2
    assert max(sizes) < FRAME_BYTES * 1.1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40_000)), max_size=60), st.data())
def test_nothing_is_lost_or_reordered_whatever_the_cuts(pieces, data):
    """Tokens of each request come out as they went in, frame by frame, also when frames are taken in between."""
    outbox, sent, got = Outbox(), {}, {}

    def take():
        for event in fill(outbox)[0].events:
            got.setdefault(event.request_id, []).extend(event.tokens.ids)

    for request_id, length in pieces:
        outbox.put(request_id, Tokens((length,), "x" * length))
        sent.setdefault(request_id, []).append(length)
        if data.draw(st.booleans()):
            take()
    while outbox:
        take()
    assert got == sent
