"""Sessions over a real connection: many requests, hostile peers, lost streams."""

import asyncio

import grpc
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from inference_svc.wire import grpc_server
from seam.inference.v1 import inference_service_pb2 as pb
from seam.inference.v1.session_pb2 import SessionRequest
from support.session_client import embedding, generation, reason_of

from .conftest import running

SESSION = "/seam.inference.v1.InferenceService/Session"


async def test_sixty_four_streams_run_at_once_on_one_session(served):
    client = served.session()
    client.send(submits=[generation(n, f"prompt {n}", tokens=30 + n, credits=10) for n in range(1, 65)])
    granted = dict.fromkeys(range(1, 65), 10)
    async with asyncio.timeout(30):
        while any(client.last(n) != "finished" for n in granted):
            due = {n: len(client.ids(n)) + 10 - granted[n] for n in granted if len(client.ids(n)) + 10 > granted[n]}
            if due:
                client.send(grants=[{"request_id": n, "credits": more} for n, more in due.items()])
                granted = {n: granted[n] + due.get(n, 0) for n in granted}
            frames = len(client.frames)
            await client.until(lambda frames=frames: len(client.frames) > frames)
    for n in range(1, 65):
        assert len(client.ids(n)) == 30 + n
        assert client.text(n) == bytes(client.ids(n)).decode()
    assert len(client.frames) < sum(30 + n for n in range(1, 65)) / 4  # news shares frames
    client.half_close()
    assert await client.closed() == "closed"


async def test_the_same_request_has_the_same_tokens_through_both_doors(served):
    client = served.session()
    client.send(submits=[generation(1, tokens=40)])
    await client.ended(1)
    work = generation(1, tokens=40).generate
    events = [event async for event in served.inference.Generate(pb.GenerateRequest(model="chat", work=work))]
    assert [token for event in events for token in event.tokens.ids] == client.ids(1)


@pytest.mark.parametrize(
    ("frames", "code", "reason"),
    [
        ([{"submits": [generation(1)]}], "INVALID_ARGUMENT", "MALFORMED_FRAME"),
        ([{"hello": {}}], "FAILED_PRECONDITION", "PROTOCOL_REVISION"),
        ([{"hello": {"protocol_revision": 1}}, {"grants": [{"request_id": 3}]}], "INVALID_ARGUMENT", "MALFORMED_FRAME"),
    ],
)
async def test_a_malformed_frame_ends_its_stream_with_a_status_and_leaves_others_alone(served, frames, code, reason):
    other = served.session()
    other.send(submits=[generation(1, tokens=30, credits=5)])
    await other.until(lambda: len(other.ids(1)) == 5)
    bad = type(other)(lambda sent: served.inference.Session(sent))
    for frame in frames:
        bad.send(**frame)
    error = await bad.closed()
    assert error.code().name == code
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert reason_of(status_pb2.Status.FromString(details)) == reason
    other.send(grants=[{"request_id": 1, "credits": 50}])
    await other.ended(1)
    assert len(other.ids(1)) == 30


async def test_garbage_bytes_end_their_own_stream_only(served):
    other = served.session()
    other.send(submits=[generation(1, tokens=30, credits=5)])
    await other.until(lambda: len(other.ids(1)) == 5)
    raw = served.channel.stream_stream(SESSION)
    call = raw(iter([b"\xff\xfe\xfd"]))
    with pytest.raises(grpc.aio.AioRpcError, match="no message of this contract") as caught:
        async for _ in call:
            pass
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    other.send(grants=[{"request_id": 1, "credits": 50}])
    await other.ended(1)
    assert len(other.ids(1)) == 30


async def test_a_frame_over_the_limit_ends_its_own_stream_only():
    async with running(max_message_bytes=64 * 1024) as served:
        other, big = served.session(), served.session()
        await big.until(lambda: big.frames)
        big.send(submits=[embedding(1, "x" * 70_000)])
        error = await big.closed()
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        other.send(submits=[embedding(1, "x")])
        await other.ended(1)
        assert other.last(1) == "finished"


async def test_a_stream_that_is_lost_frees_all_its_slots():
    async with running(slots=4) as served:
        lost = served.session()
        served.gate.shut()
        lost.send(submits=[generation(n, tokens=4000) for n in range(1, 33)])
        await asyncio.to_thread(served.gate.wait_until_blocked)
        lost.responses.cancel()
        other = served.session()
        other.send(submits=[generation(n, tokens=5) for n in range(1, 5)])
        await other.until(lambda: all(other.kinds(n) == ["accepted"] for n in range(1, 5)))
        served.gate.open()
        await other.ended(1, 2, 3, 4)
        assert served.runner.step_count < 1000  # of 32,000; steps take no time here, a cancel does


async def test_a_reader_that_stops_holds_up_nobody_on_other_sessions():
    window = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    async with running(options=window, slots=16) as served:
        stopped = served.inference.Session()
        await stopped.write(SessionRequest(hello={"protocol_revision": 1}))
        await stopped.read()
        for first in range(1, 400, 4):
            await stopped.write(SessionRequest(submits=[generation(n, tokens=50) for n in range(first, first + 4)]))
        other = served.session()
        other.send(submits=[generation(n, tokens=100) for n in range(1, 9)])
        await other.ended(*range(1, 9))
        assert all(len(other.ids(n)) == 100 for n in range(1, 9))
        stopped.cancel()


async def test_draining_hands_back_session_requests_and_lets_calls_finish():
    async with running() as served:
        client = served.session()
        client.send(submits=[generation(1, tokens=4000, credits=5)])
        await client.until(lambda: len(client.ids(1)) == 5)
        served.gate.shut()
        call = served.inference.Generate(pb.GenerateRequest(model="chat", work=generation(1, tokens=20).generate))
        await call.read()
        await asyncio.to_thread(served.gate.wait_until_blocked)
        draining = asyncio.create_task(served.server.drain(20))
        error = await client.closed()
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert client.last(1) == "failed"
        assert client.reason(1) == "DRAINING"
        assert len(client.ids(1)) == 5
        served.gate.open()
        last = None
        while (event := await call.read()) is not grpc.aio.EOF:
            last = event
        assert last.HasField("finished")
        await draining


async def test_a_draining_server_stays_reachable_until_its_clients_could_read_why_their_sessions_ended(monkeypatch):
    monkeypatch.setattr(grpc_server, "LINGER", 20.0)
    async with running() as served:
        health = health_pb2_grpc.HealthStub(served.channel)
        client = served.session()
        await client.until(lambda: client.frames)
        draining = asyncio.create_task(served.server.drain(20))
        assert (await client.closed()).code() == grpc.StatusCode.UNAVAILABLE
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        draining.cancel()
        await asyncio.wait([draining])


async def test_a_lost_device_is_told_to_everyone_and_to_the_process():
    async with running() as served:
        client = served.session()
        client.send(submits=[generation(1, tokens=4000, credits=5), generation(2, "\x04 lost")])
        error = await client.closed()
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert client.reason(1) == client.reason(2) == "ENGINE_STOPPED"
        async with asyncio.timeout(20):
            assert "bus" in await served.server.died()
