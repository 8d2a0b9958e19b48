"""Readers at their own pace, readers that leave, and what that means on the replica."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from business_svc.domain.inference import Accepted, Context, Tokens
from business_svc.errors import Reason, SeamError
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.pool import Pool
from support.duplex import ScriptedReplica
from support.link import asked, check_whole, context_within, pool_of, quick_settings, read, until


async def test_a_slow_reader_delays_nobody_and_little_is_generated_for_it() -> None:
    replica = ScriptedReplica()
    async with pool_of(replica) as pool, aclosing(pool.generate(asked("slow", 5000), Context())) as slow:
        assert isinstance(await anext(slow), Accepted)
        fast = await asyncio.gather(*(read(pool, asked(f"fast {number}", 100)) for number in range(16)))
        for number, events in enumerate(fast):
            check_whole(events, f"fast {number}", 100)
        [left] = replica.held
        assert left.generated <= 8  # the window
        for _ in range(20):
            await anext(slow)
        assert replica.held[0].generated <= 20 + 8


async def test_two_thousand_requests_share_one_session() -> None:
    replica = ScriptedReplica()
    async with pool_of(replica) as pool:
        answers = await asyncio.gather(*(read(pool, asked(f"p{number}", 3)) for number in range(2000)))
        for number, events in enumerate(answers):
            check_whole(events, f"p{number}", 3)
    assert len(replica.frames_taken) < 200  # a tick's news, not a request's, makes a frame


async def test_a_reader_that_leaves_in_the_middle_frees_the_replica() -> None:
    replica = ScriptedReplica()
    async with pool_of(replica) as pool:
        async with aclosing(pool.generate(asked("left", 5000), Context())) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    break
        await until(lambda: not replica.held)
        assert len(replica.cancelled) == 1
        await until(lambda: pool.replicas()[0].live_request_count == 0)


async def test_a_task_cancelled_while_it_waits_cancels_on_the_replica() -> None:
    replica = ScriptedReplica()
    replica.by_hand = True
    async with pool_of(replica) as pool:
        reading = asyncio.create_task(read(pool, asked("never")))
        await until(lambda: bool(replica.held))
        reading.cancel()
        await until(lambda: not replica.held)
        assert reading.cancelled() or reading.cancelling()


@pytest.mark.parametrize("turns", range(8))
async def test_a_request_cancelled_in_its_first_moments_is_cancelled_once_or_never_sent(turns: int) -> None:
    replica = ScriptedReplica()
    replica.by_hand = True
    async with pool_of(replica) as pool:
        reading = asyncio.create_task(read(pool, asked("never")))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        replica.by_hand = False
        check_whole(await read(pool, asked("next")), "next", 12)
        sent = [one.request_id for one in replica.submitted if one.generate.prompt.chat.messages[0].content == "never"]
        assert replica.cancelled == sent
        assert not replica.held


async def test_a_deadline_ends_an_answer_and_frees_the_replica() -> None:
    replica = ScriptedReplica()
    replica.ends = False
    async with pool_of(replica) as pool:
        with pytest.raises(SeamError) as raised:
            await read(pool, asked("long"), context_within(0.05))
        assert raised.value.reason is Reason.DEADLINE_EXPIRED
        await until(lambda: not replica.held)


async def test_a_full_pool_refuses_at_once_rather_than_queue() -> None:
    replica = ScriptedReplica()
    replica.max_live_requests = 2
    replica.by_hand = True
    async with pool_of(replica) as pool:
        held = [asyncio.create_task(read(pool, asked(f"p{number}"))) for number in range(2)]
        await until(lambda: len(replica.held) == 2)
        with pytest.raises(SeamError) as raised:
            await read(pool, asked("one too many"))
        assert raised.value.reason is Reason.QUEUE_FULL
        assert raised.value.retry_after is not None
        replica.by_hand = False
        replica.step()
        for number, one in enumerate(held):
            check_whole(await one, f"p{number}", 12)


async def test_a_stopped_replica_is_noticed_by_its_silence_and_left() -> None:
    first, second = ScriptedReplica("first"), ScriptedReplica("second")
    settings = replace(quick_settings(), heartbeat_timeout=0.4)
    async with pool_of(first, second, settings=settings) as pool:
        first.before_frame = lambda number: first.stall() if number == 5 else None
        answers = await asyncio.gather(*(read(pool, asked(f"p{number}", 30)) for number in range(4)))
        for number, events in enumerate(answers):
            check_whole(events, f"p{number}", 30)
    assert first.silent
    first.speak()


async def test_leaving_the_pool_ends_what_runs_and_nothing_is_left_behind() -> None:
    replica = ScriptedReplica()
    replica.by_hand = True
    async with Pool([InProcessConnector(replica.serve)]) as pool:
        reading = asyncio.create_task(read(pool, asked("cut off")))
        await until(lambda: bool(replica.held))
    with pytest.raises(SeamError) as raised:
        await reading
    assert raised.value.reason in (Reason.NO_REPLICA, Reason.REPLICA_LOST)
    assert replica.sessions == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
