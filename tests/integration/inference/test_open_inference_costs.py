"""What a request of the Open Inference Protocol costs when nobody wants it."""

import asyncio

import grpc
import pytest
from inference import open_inference_pb2 as oip
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from inference_svc.wire.calls import WINDOW
from inference_svc.wire.open_inference.streaming import MAX_IN_FLIGHT
from support.open_inference import Stream, said, tensors, text_of

from .conftest import running
from .test_calls import idle, refused


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancel_frees_the_slot(streamed):
    async with running(slots=1) as served:
        stub = GRPCInferenceServiceStub(served.channel)
        served.gate.shut()
        if streamed:
            stream = Stream(served.channel)
            await stream.send(*[said(tokens=4000, request_id=str(n)) for n in range(5)])
            call = stream.call
        else:
            call = stub.ModelInfer(said(tokens=4000))
        await asyncio.to_thread(served.gate.wait_until_blocked)
        call.cancel()
        following = stub.ModelInfer(said(tokens=3))
        served.gate.open()
        await following
        await idle(served)
        assert served.runner.step_count < 1000  # of the 4,000 tokens asked; steps take no time here, a cancel does


async def test_a_client_that_hangs_up_frees_its_slots(served):
    served.gate.shut()
    async with grpc.aio.insecure_channel(served.server.address) as own:
        stream = Stream(own)
        await stream.send(*[said(tokens=4000, request_id=str(n)) for n in range(5)])
        await asyncio.to_thread(served.gate.wait_until_blocked)
    served.gate.open()
    await idle(served)
    assert served.runner.step_count < 1000  # as above


async def test_a_stream_that_is_not_read_stops_being_computed(served):
    """What is under way is the window of each, and what the transport's own buffers take."""
    stream = Stream(served.channel)
    filling = said("x" * 60, tokens=700, request_id="i" * 60_000)  # so that few responses fill the transport
    await stream.send(filling, filling)
    await still(lambda: served.runner.step_count)
    computed = served.runner.computed_tokens
    assert computed < 2 * (60 + WINDOW) + 400
    other = await GRPCInferenceServiceStub(served.channel).ModelInfer(said(tokens=500))
    assert tensors(other)["num_output_tokens"].tolist() == [500]
    seen = await stream.rest()
    assert sum(len(text_of([each])) for each in seen["i" * 60_000]) == 1400


async def test_no_more_requests_are_read_than_may_be_in_flight(served):
    served.gate.shut()
    stream = Stream(served.channel)
    sending = asyncio.create_task(stream.send(*[said(tokens=1, request_id=str(n)) for n in range(MAX_IN_FLIGHT + 50)]))
    await asyncio.to_thread(served.gate.wait_until_blocked)
    await still(lambda: served.server.engine.live_request_count >= MAX_IN_FLIGHT)
    await GRPCInferenceServiceStub(served.channel).ServerLive(oip.ServerLiveRequest())
    assert served.server.engine.live_request_count == MAX_IN_FLIGHT
    served.gate.open()
    await sending
    assert len(await stream.rest()) == MAX_IN_FLIGHT + 50


async def still(count):
    """Returns when a count has not changed for a while: nothing goes on that would change it."""
    async with asyncio.timeout(60):
        seen, since = count(), 0
        while since < 20:
            await asyncio.sleep(0.02)
            now = count()
            seen, since = now, since + 1 if now == seen and now else 0


async def test_a_timeout_ends_a_request_with_its_reason(served, stub):
    served.gate.shut()
    late = stub.ModelInfer(said(tokens=4000, timeout=50_000))
    await asyncio.to_thread(served.gate.wait_until_blocked)
    await asyncio.sleep(0.06)  # the deadline itself, not a guess at how long something takes
    served.gate.open()
    code, details = await refused(late)
    assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED")


async def test_a_stream_of_a_server_that_leaves_ends_after_its_answers(served):
    stream = Stream(served.channel)
    served.gate.shut()
    await stream.send(said(tokens=50, request_id="old"))
    await asyncio.to_thread(served.gate.wait_until_blocked)
    await served.server.leave()
    served.gate.open()
    await stream.until_final("old")
    assert len(text_of(stream.seen["old"])) == 50
    assert await stream.call.code() == grpc.StatusCode.UNAVAILABLE
