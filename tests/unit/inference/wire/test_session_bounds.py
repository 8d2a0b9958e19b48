"""What one peer can make a session hold is bounded, whatever it sends and however little it reads."""

import asyncio

import pytest
from inference_svc.errors import MalformedFrame, QueueFull
from inference_svc.wire.allowance import WINDOW
from inference_svc.wire.replica import SessionLimits
from support.serving import serving
from support.session_client import embedding, generation


@pytest.mark.parametrize("credits", [None, 2**32 - 1])
async def test_a_reader_that_promises_everything_and_reads_nothing_stops_its_own_generation_alone(credits):
    async with serving() as served:
        client = served.client(reading=False)
        client.take(await anext(client.responses))
        client.send(submits=[generation(1, tokens=450, credits=credits)])
        client.take(await anext(client.responses))
        begun = len(client.ids(1))
        other = served.client()
        for n in range(1, 4):
            other.send(submits=[generation(n, tokens=450)])
            await other.ended(n)
        client.take(await anext(client.responses))
        assert len(client.ids(1)) - begun <= WINDOW
        async for frame in client.responses:
            client.take(frame)
            if client.last(1) == "finished":
                break
        assert len(client.ids(1)) == 450


async def test_a_session_whose_results_nobody_reads_is_given_up_and_costs_nothing_more():
    async with serving(limits=SessionLimits(heartbeat=5.0, max_unread_bytes=4_000)) as served:
        client = served.client(reading=False)
        client.take(await anext(client.responses))
        client.send(submits=[generation(1, tokens=400, credits=5), *(embedding(n, "text") for n in range(2, 200))])
        other = served.client()
        other.send(submits=[generation(n, tokens=50) for n in range(1, 30)])
        await other.ended(*range(1, 30))
        with pytest.raises(QueueFull, match="unread"):
            _ = [frame async for frame in client.responses]
        assert await asyncio.to_thread(served.engine.wait_until_drained, 20)
        assert all(other.last(n) == "finished" for n in range(1, 30))


async def test_sessions_are_bounded_also_those_that_have_not_said_hello():
    async with serving(limits=SessionLimits(max_sessions=3, heartbeat=5.0)) as served:
        first, silent, also_silent = served.client(), served.client(hello=False), served.client(hello=False)
        await first.until(lambda: first.frames)
        error = await served.client().closed()
        assert isinstance(error, QueueFull)
        assert error.retry_after
        await silent.lose()
        last = served.client()
        await last.until(lambda: last.frames)
        await also_silent.lose()


async def test_a_hello_of_many_bytes_is_refused():
    async with serving() as served:
        client = served.client(hello=False)
        client.send(hello={"protocol_revision": 1, "client_id": "x" * 100_000})
        assert isinstance(await client.closed(), MalformedFrame)


async def test_a_deadline_further_away_than_a_lock_can_wait_harms_nobody():
    async with serving() as served:
        client = served.client()
        patient = generation(1, tokens=4, credits=0)
        patient.context.timeout.seconds = 315_576_000_000
        client.send(submits=[patient])
        await client.until(lambda: client.kinds(1) == ["accepted"])
        for n in range(2, 5):
            client.send(submits=[generation(n)])
            await client.ended(n)
        assert served.engine.dead is None
