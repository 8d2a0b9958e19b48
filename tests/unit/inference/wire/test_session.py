"""A session over the echo engine, in one process: order, isolation, limits, ends."""

import asyncio

import pytest
from inference_svc.errors import Draining, MalformedFrame, ModelNotReady, ProtocolRevision
from inference_svc.wire.replica import SessionLimits
from inference_svc.wire.session import MAX_ENTRIES
from seam.inference.v1 import session_pb2
from support.serving import serving
from support.session_client import embedding, generation


async def test_welcome_answers_hello_and_tells_models_limits_and_load():
    async with serving() as served:
        client = served.client()
        await client.until(lambda: client.frames)
        welcome = client.frames[0].welcome
        assert (welcome.protocol_revision, welcome.replica_id) == (1, "replica-1")
        assert [model.name for model in welcome.models] == ["chat", "embed", "score"]
        assert welcome.max_live_requests == 2048
        assert "heartbeat-ms=5000" in welcome.capabilities
        assert client.frames[0].load.state == session_pb2.REPLICA_STATE_READY
        assert [load.model for load in client.frames[0].load.models] == ["chat", "embed", "score"]


async def test_a_newer_peer_is_spoken_to_in_our_revision():
    async with serving() as served:
        client = served.client(hello=False)
        client.send(hello=session_pb2.Hello(protocol_revision=7))
        await client.until(lambda: client.frames)
        assert client.frames[0].welcome.protocol_revision == 1


async def test_many_requests_of_all_kinds_are_answered_in_order():
    async with serving() as served:
        client = served.client()
        score = session_pb2.Submit(request_id=100, model="score", score={"inputs": [{"text": "a", "text_pair": "b"}]})
        client.send(submits=[*(generation(n, tokens=5 + n) for n in range(1, 33)), embedding(99, "a", "b"), score])
        await client.ended(*range(1, 33), 99, 100)
        for n in range(1, 33):
            kinds = client.kinds(n)
            assert kinds[0] == "accepted"
            assert set(kinds[1:-1]) == {"tokens"}
            assert kinds[-1] == "finished"
            assert len(client.ids(n)) == 5 + n
        assert sum(len(event.vectors.embeddings) for event in client.news[99]) == 2
        assert sum(len(event.scores.scores) for event in client.news[100]) == 1
        assert all(frame.HasField("load") for frame in client.frames)


async def test_one_step_of_many_requests_is_one_frame():
    async with serving() as served:
        client = served.client()
        served.gate.shut()
        client.send(submits=[generation(n, tokens=4) for n in range(1, 9)])
        await client.until(lambda: all(client.kinds(n) == ["accepted"] for n in range(1, 9)))
        await asyncio.to_thread(served.gate.wait_until_blocked)
        begin = len(client.frames)
        served.gate.open()
        await client.ended(*range(1, 9))
        steps = served.runner.step_count
        assert len(client.frames) - begin <= steps + 1


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        ([{}], MalformedFrame),
        ([{"submits": [generation(1)]}], MalformedFrame),
        ([{"hello": {"protocol_revision": 1}, "submits": [generation(1)]}], MalformedFrame),
        ([{"hello": {}}], ProtocolRevision),
        ([{"hello": {"protocol_revision": 1}}, {"hello": {"protocol_revision": 1}}], MalformedFrame),
        ([{"hello": {"protocol_revision": 1}}, {"grants": [{"request_id": 1}]}], MalformedFrame),
        ([{"hello": {"protocol_revision": 1}}, {"cancels": [{}] * (MAX_ENTRIES + 1)}], MalformedFrame),
        ([], MalformedFrame),
    ],
)
async def test_frames_out_of_order_or_sense_end_the_stream_and_no_other(frames, kind):
    async with serving() as served:
        other = served.client()
        other.send(submits=[generation(1, credits=2, tokens=4)])
        client = served.client(hello=False)
        for frame in frames:
            client.send(**frame)
        if not frames:
            client.half_close()
        assert isinstance(await client.closed(), kind)
        other.send(grants=[{"request_id": 1, "credits": 9}])
        await other.ended(1)
        assert other.kinds(1)[-1] == "finished"


async def test_a_malformed_frame_cancels_what_the_session_held():
    async with serving() as served:
        client = served.client()
        client.send(submits=[generation(1, tokens=400, credits=5)])
        await client.until(lambda: len(client.ids(1)) == 5)
        assert served.runner.open_slots
        client.send(hello={"protocol_revision": 1})
        assert isinstance(await client.closed(), MalformedFrame)
        async with asyncio.timeout(10):
            while served.runner.open_slots:
                fresh = served.client()
                fresh.send(submits=[generation(1, tokens=1)])
                await fresh.ended(1)


async def test_silence_instead_of_hello_ends_the_stream():
    async with serving(limits=SessionLimits(hello_timeout=0.01)) as served:
        client = served.client(hello=False)
        assert isinstance(await client.closed(), MalformedFrame)


async def test_a_replica_that_loads_takes_no_session():
    async with serving(ready=False) as served:
        assert isinstance(await served.client().closed(), ModelNotReady)


async def test_each_bad_request_fails_alone_with_its_reason():
    async with serving() as served:
        client = served.client()
        client.send(
            submits=[
                generation(1),
                generation(2, ""),
                generation(3, model="nobody"),
                session_pb2.Submit(request_id=4, model="chat"),
                generation(5, sampling={"top_p": 2.0}),
                embedding(6, "x", model="chat"),
                generation(7, "\x02 refused at open"),
                generation(8, "\x01 poisoned step"),
                generation(9),
            ]
        )
        await client.ended(*range(1, 10))
        assert client.last(1) == client.last(9) == "finished"
        assert {n: client.reason(n) for n in range(2, 9)} == {
            2: "TEXT_EMPTY",
            3: "MODEL_NOT_FOUND",
            4: "INVALID_FIELD",
            5: "INVALID_FIELD",
            6: "TASK_NOT_SUPPORTED",
            7: client.reason(7),
            8: "STEP_FAILED",
        }
        assert client.kinds(2) == ["failed"]


async def test_the_same_submit_again_is_ignored():
    async with serving() as served:
        client = served.client()
        client.send(submits=[generation(1, credits=1)])
        await client.until(lambda: client.ids(1))
        client.send(submits=[generation(1, credits=1)])
        client.send(grants=[{"request_id": 1, "credits": 100}])
        await client.ended(1)
        assert client.kinds(1).count("accepted") == 1
        assert "failed" not in client.kinds(1)
        assert len(client.ids(1)) == 8


async def test_another_submit_of_a_live_id_is_refused_and_the_first_goes_on():
    async with serving() as served:
        client = served.client()
        client.send(submits=[generation(1, credits=1)])
        await client.until(lambda: client.ids(1))
        client.send(submits=[generation(1, "something else")])
        await client.until(lambda: "failed" in client.kinds(1))
        assert client.reason(1) == "DUPLICATE_REQUEST"
        client.send(grants=[{"request_id": 1, "credits": 100}])
        await client.until(lambda: client.last(1) == "finished")
        assert len(client.ids(1)) == 8


async def test_an_id_that_ended_may_not_come_again():
    async with serving() as served:
        client = served.client()
        client.send(submits=[generation(5)])
        await client.ended(5)
        client.send(submits=[generation(5), generation(4)])
        await client.ended(4)
        assert client.reason(5) == client.reason(4) == "DUPLICATE_REQUEST"


async def test_a_grant_for_an_id_never_seen_is_answered_and_a_late_one_is_not():
    async with serving() as served:
        client = served.client()
        client.send(submits=[generation(1)])
        await client.ended(1)
        client.send(grants=[{"request_id": 1, "credits": 5}, {"request_id": 2, "credits": 5}])
        await client.until(lambda: client.news[2])
        assert client.reason(2) == "UNKNOWN_REQUEST"
        assert client.last(1) == "finished"
        client.send(submits=[generation(2)])
        await client.ended(2)
        await client.until(lambda: client.last(2) == "finished")


async def test_nothing_is_generated_beyond_the_credits():
    async with serving() as served:
        client = served.client()
        client.send(submits=[generation(1, tokens=20, credits=3), generation(2, tokens=20, credits=0), generation(3)])
        await client.ended(3)
        await client.until(lambda: len(client.ids(1)) == 3)
        assert client.ids(2) == []
        client.send(grants=[{"request_id": 1, "credits": 4}, {"request_id": 2, "credits": 1}])
        await client.until(lambda: len(client.ids(1)) == 7 and len(client.ids(2)) == 1)
        client.send(grants=[{"request_id": 1, "credits": 100}, {"request_id": 2, "credits": 100}])
        await client.ended(1, 2)
        assert len(client.ids(1)) == len(client.ids(2)) == 20


async def test_a_cancel_ends_the_request_and_frees_its_slot():
    async with serving(slots=1) as served:
        client = served.client()
        client.send(submits=[generation(1, tokens=400, credits=2), generation(2)])
        await client.until(lambda: client.ids(1))
        client.send(cancels=[{"request_id": 1}, {"request_id": 77}])
        await client.ended(1, 2)
        assert client.reason(1) == "CANCELLED"
        assert client.last(2) == "finished"


async def test_a_deadline_that_has_passed_fails_its_request():
    async with serving() as served:
        client = served.client()
        late = generation(1)
        late.context.timeout.SetInParent()
        client.send(submits=[late])
        await client.ended(1)
        assert client.reason(1) == "DEADLINE_EXPIRED"


async def test_live_requests_are_bounded_and_those_beyond_are_refused_at_once():
    async with serving(limits=SessionLimits(max_live_requests=3, heartbeat=5.0)) as served:
        client = served.client()
        client.send(submits=[generation(n, credits=0) for n in range(1, 6)])
        await client.ended(4, 5)
        assert client.reason(4) == client.reason(5) == "QUEUE_FULL"
        client.send(cancels=[{"request_id": 1}])
        await client.ended(1)
        client.send(submits=[generation(6)])
        await client.ended(6)
        assert client.last(6) == "finished"


async def test_a_silent_session_beats():
    async with serving(limits=SessionLimits(heartbeat=0.01)) as served:
        client = served.client()
        await client.until(lambda: len(client.heartbeats) >= 3)
        assert all(frame.HasField("load") for frame in client.heartbeats)


async def test_half_closing_finishes_what_is_held_and_then_ends():
    async with serving() as served:
        client = served.client()
        client.send(submits=[generation(1, tokens=50), embedding(2)])
        client.half_close()
        assert await client.closed() == "closed"
        assert client.last(1) == client.last(2) == "finished"
        assert len(client.ids(1)) == 50


async def test_a_lost_stream_cancels_everything_of_it_and_nothing_else():
    async with serving(slots=2) as served:
        lost, other = served.client(), served.client()
        lost.send(submits=[generation(n, tokens=400, credits=1) for n in range(1, 9)])
        await lost.until(lambda: lost.ids(1))
        await lost.lose()
        other.send(submits=[generation(1, tokens=5), generation(2, tokens=5)])
        await other.ended(1, 2)
        assert other.last(1) == other.last(2) == "finished"


async def test_draining_tells_hands_back_and_ends_the_stream():
    async with serving() as served:
        client = served.client()
        client.send(submits=[generation(1, tokens=400, credits=3)])
        await client.until(lambda: len(client.ids(1)) == 3)
        served.service.drain()
        await client.until(lambda: client.frames[-1].load.state == session_pb2.REPLICA_STATE_DRAINING)
        client.send(submits=[generation(2)])
        assert isinstance(await client.closed(), Draining)
        assert client.kinds(1)[-1] == "failed"
        assert isinstance(await served.client().closed(), Draining)


async def test_a_request_that_was_handed_back_ends_once_also_when_the_engine_tells_of_it_too():
    async with serving() as served:
        client = served.client(reading=False)
        client.take(await anext(client.responses))
        client.send(submits=[generation(1, tokens=400, credits=3)])
        while len(client.ids(1)) < 3:
            client.take(await anext(client.responses))
        served.service.drain()  # while nobody reads
        assert await asyncio.to_thread(served.engine.wait_until_drained, 20)
        for _ in range(10):
            await asyncio.sleep(0)
        client.take(await anext(client.responses))
        assert client.kinds(1).count("failed") == 1
        assert client.reason(1) == "DRAINING"


async def test_a_reader_that_stops_gets_merged_news_and_new_work_is_refused():
    """What a peer does not read is bounded by its live requests and their credits; then the session reads no more."""
    async with serving(limits=SessionLimits(max_live_requests=4, heartbeat=5.0)) as served:
        client = served.client(reading=False)
        await anext(client.responses)
        for first in range(1, 12_001, 4):
            client.send(submits=[generation(n, tokens=3, credits=3) for n in range(first, first + 4)])
        first_frame = await anext(client.responses)
        client.take(first_frame)
        other = served.client()
        other.send(submits=[generation(1, tokens=200)])
        await other.ended(1)
        for _ in range(4000):  # turns enough to read every frame, if it did
            await asyncio.sleep(0)
        assert client.unread > 0
        async with asyncio.timeout(20):
            async for frame in client.responses:
                client.take(frame)
                if len(client.news) == 12_000 and all(client.last(n) in ("finished", "failed") for n in client.news):
                    break
        assert all(client.reason(n) == "QUEUE_FULL" for n in client.news if client.last(n) == "failed")
        assert all(len(client.ids(n)) == 3 for n in client.news if client.last(n) == "finished")
