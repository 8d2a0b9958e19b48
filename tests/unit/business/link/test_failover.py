"""A replica may die, drain or refuse at any moment: the reader sees one whole answer, or one honest error."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest
from business_svc.domain.inference import (
    Accepted,
    Context,
    EmbedRequest,
    GenerateRequest,
    GenerationEvent,
    Message,
)
from business_svc.errors import Reason, SeamError
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.membership import ReconnectSettings
from business_svc.link.pool import Pool, PoolSettings
from google.rpc import code_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from support.duplex import ScriptedReplica, status
from support.link import asked, check_whole, context_within, ids_of, pool_of, quick_settings, read, until


def kills_at(replica: ScriptedReplica, frame: int, others: list[ScriptedReplica]) -> Callable[[int], None]:
    def before(number: int) -> None:
        if number >= frame and not any(one.dead for one in [replica, *others]):
            replica.kill()

    return before


@pytest.mark.parametrize("frame", range(1, 14))
async def test_a_death_at_any_frame_shows_no_gap_and_no_repeat(frame: int) -> None:
    first, second = ScriptedReplica("first"), ScriptedReplica("second")
    first.before_frame = kills_at(first, frame, [second])
    second.before_frame = kills_at(second, frame, [first])
    async with pool_of(first, second) as pool:
        check_whole(await read(pool, asked("hello")), "hello", 12)
    assert first.dead or second.dead or frame > 12


async def test_a_sampled_answer_goes_on_with_the_seed_it_began_with() -> None:
    first, second = ScriptedReplica("first"), ScriptedReplica("second")
    first.before_frame = kills_at(first, 5, [second])
    second.before_frame = kills_at(second, 5, [first])
    async with pool_of(first, second) as pool:
        events = await read(pool, asked("dice", temperature=1.0))
    accepted = events[0]
    assert isinstance(accepted, Accepted)
    assert accepted.seed is not None
    check_whole(events, "dice", 12, accepted.seed)
    assert sum(one.dead for one in (first, second)) == 1


async def test_all_of_many_streams_survive_the_death_of_one_of_two_replicas() -> None:
    first, second = ScriptedReplica("first"), ScriptedReplica("second")
    async with pool_of(first, second) as pool:
        first.before_frame = kills_at(first, 20, [])
        prompts = [f"prompt {number}" for number in range(64)]
        answers = await asyncio.gather(*(read(pool, asked(one, 40)) for one in prompts))
    assert first.dead
    for prompt, events in zip(prompts, answers, strict=True):
        check_whole(events, prompt, 40)
    assert second.held == []


async def test_a_drained_replica_hands_its_answers_to_the_other() -> None:
    first, second = ScriptedReplica("first"), ScriptedReplica("second")
    async with pool_of(first, second) as pool:
        first.before_frame = lambda number: first.drain() if number == 6 else None
        answers = await asyncio.gather(*(read(pool, asked(f"p{number}", 30)) for number in range(8)))
    for number, events in enumerate(answers):
        check_whole(events, f"p{number}", 30)
    assert first.draining


async def test_a_request_waits_for_a_replica_that_comes_back() -> None:
    only = ScriptedReplica("only")
    async with pool_of(only) as pool:
        only.before_frame = lambda number: only.kill() if number == 4 else None
        reading = asyncio.create_task(read(pool, asked("patience")))
        await until(lambda: only.dead)
        only.revive()
        check_whole(await reading, "patience", 12)


async def test_a_request_in_flight_at_two_deaths_is_not_given_a_third_replica() -> None:
    replicas = [ScriptedReplica(name) for name in ("first", "second", "third")]
    for one in replicas:
        one.before_frame = lambda number, one=one: one.kill()
    async with pool_of(*replicas) as pool:
        with pytest.raises(SeamError) as raised:
            await read(pool, asked("poison"))
    assert raised.value.reason is Reason.POISON_REQUEST
    assert sum(one.dead for one in replicas) == 2


async def test_without_a_replica_a_request_waits_until_its_deadline_and_is_told_when_to_retry() -> None:
    gone = ScriptedReplica("gone")
    gone.kill()
    async with Pool([InProcessConnector(gone.serve)], quick_settings()) as pool:
        with pytest.raises(SeamError) as raised:
            await read(pool, asked("anybody"), context_within(0.05))
    assert raised.value.reason is Reason.NO_REPLICA
    assert raised.value.retry_after is not None


async def test_waiting_for_a_replica_is_bounded() -> None:
    gone = ScriptedReplica("gone")
    gone.kill()
    settings = PoolSettings(patience=0.2, most_waiting=3)
    async with Pool([InProcessConnector(gone.serve)], settings) as pool:
        answers = await asyncio.gather(*(read(pool, asked("x")) for _ in range(5)), return_exceptions=True)
    reasons = sorted(one.reason.name for one in answers if isinstance(one, SeamError))
    assert reasons == ["NO_REPLICA"] * 3 + ["QUEUE_FULL"] * 2


async def test_a_refused_request_is_tried_at_another_replica() -> None:
    full, free = ScriptedReplica("full"), ScriptedReplica("free")
    full.refusal = status("QUEUE_FULL", code_pb2.RESOURCE_EXHAUSTED, retry_after=0.2)
    async with pool_of(full, free) as pool:
        for number in range(4):
            check_whole(await read(pool, asked(f"p{number}")), f"p{number}", 12)
    assert full.submitted


async def test_when_all_refuse_the_refusal_is_immediate_and_says_when_to_retry() -> None:
    replicas = [ScriptedReplica("first"), ScriptedReplica("second")]
    for one in replicas:
        one.refusal = status("QUEUE_FULL", code_pb2.RESOURCE_EXHAUSTED, retry_after=5.0)
    async with pool_of(*replicas) as pool:
        for _ in range(20):
            with pytest.raises(SeamError) as raised:
                await read(pool, asked("too much"))
            assert raised.value.reason is Reason.QUEUE_FULL
            assert raised.value.retry_after is not None
        asked_of_replicas = sum(len(one.submitted) for one in replicas)
    assert asked_of_replicas < 20  # most were refused here, without a way there and back


async def test_retries_of_refused_requests_keep_to_the_budget() -> None:
    replicas = [ScriptedReplica("first"), ScriptedReplica("second")]
    for one in replicas:
        one.refusal = status("MODEL_NOT_READY", code_pb2.UNAVAILABLE, retry_after=0.1)
    async with pool_of(*replicas) as pool:
        await asyncio.gather(*(read(pool, asked("x")) for _ in range(30)), return_exceptions=True)
    assert sum(len(one.submitted) for one in replicas) <= 30 + 3


async def test_an_answer_that_has_begun_waits_for_room_rather_than_fail() -> None:
    first, second = ScriptedReplica("first"), ScriptedReplica("second")
    second.refusal = status("QUEUE_FULL", code_pb2.RESOURCE_EXHAUSTED, retry_after=0.02)
    async with pool_of(first, second) as pool:
        first.before_frame = lambda number: first.kill() if number == 5 else None
        reading = asyncio.create_task(read(pool, asked("begun")))
        await until(lambda: first.dead)
        before = len(second.submitted)
        await until(lambda: len(second.submitted) >= before + 6)  # more than the retry budget's floor
        second.refusal = None
        check_whole(await reading, "begun", 12)


async def test_a_request_that_is_wrong_is_not_tried_twice() -> None:
    replicas = [ScriptedReplica("first"), ScriptedReplica("second")]
    for one in replicas:
        one.refusal = status("INPUT_TOO_LONG", code_pb2.INVALID_ARGUMENT, "too long")
    async with pool_of(*replicas) as pool:
        with pytest.raises(SeamError) as raised:
            await read(pool, asked("x"))
    assert raised.value.reason is Reason.INPUT_TOO_LONG
    assert sum(len(one.submitted) for one in replicas) == 1


async def test_a_model_that_nobody_serves_is_refused_at_once() -> None:
    async with pool_of(ScriptedReplica("only")) as pool:
        with pytest.raises(SeamError) as raised:
            await read(pool, GenerateRequest("unknown", (Message("user", "x"),)))
    assert raised.value.reason is Reason.MODEL_NOT_FOUND
    assert raised.value.violations[0].field == "model"


async def test_embeddings_are_asked_again_elsewhere_when_their_replica_dies() -> None:
    first, second = ScriptedReplica("first"), ScriptedReplica("second")
    first.before_frame = kills_at(first, 1, [second])
    second.before_frame = kills_at(second, 1, [first])
    async with pool_of(first, second) as pool:
        answer = await pool.embed(EmbedRequest("embed", ("a", "bb", "ccc")), Context())
    assert [one.values[0] for one in answer.embeddings] == [1.0, 2.0, 3.0]
    assert sum(one.dead for one in (first, second)) == 1


async def test_replicas_join_and_leave_while_answers_run() -> None:
    first, second = ScriptedReplica("first"), ScriptedReplica("second")
    async with pool_of(first) as pool:
        async with aclosing(pool.generate(asked("moving", 40), Context())) as events:
            seen = [await anext(events), await anext(events)]
            pool.add(InProcessConnector(second.serve, address="second"))
            await pool.ready(2)
            pool.remove("first")
            seen += [event async for event in events]
        check_whole(seen, "moving", 40)
        assert pool.addresses == {"second"}
        assert second.submitted


async def test_replicas_that_leave_the_pool_in_turn_do_not_make_a_request_poison() -> None:
    replicas = [ScriptedReplica(name) for name in "abcd"]
    async with pool_of(*replicas) as pool, aclosing(pool.generate(asked("rolling", 60), Context())) as events:
        seen = [await anext(events)]
        for replica in replicas[:-1]:
            seen += [await anext(events) for _ in range(10)]
            pool.remove(replica.name)
        seen += [event async for event in events]
    check_whole(seen, "rolling", 60)


@settings(max_examples=100)
@given(
    faults=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["kill", "drain", "refuse"]), st.integers(1, 25)), max_size=6
    ),
    streams=st.integers(1, 6),
)
def test_no_schedule_of_faults_loses_or_repeats_a_token(faults: list[tuple[int, str, int]], streams: int) -> None:
    async def play() -> None:
        replicas = [ScriptedReplica(f"replica {number}") for number in range(3)]
        for number, replica in enumerate(replicas):
            replica.before_frame = _faults_of(replica, [one[1:] for one in faults if one[0] == number])
        patient = PoolSettings(
            patience=10.0,
            most_deaths=100,
            retry_floor=100,
            credit_window=4,
            reconnect=ReconnectSettings(first_pause=0.001, longest_pause=0.002),
        )
        async with pool_of(*replicas, settings=patient) as pool:
            answers = await asyncio.gather(*(_whole_or_refused(pool, f"p{one}") for one in range(streams)))
        for number, events in enumerate(answers):
            if events:
                check_whole(events, f"p{number}", 20)
        assert not any(replica.held for replica in replicas)

    asyncio.run(play())


async def _whole_or_refused(pool: Pool, prompt: str) -> list[GenerationEvent]:
    """Empty for a request that was refused before it began: honest, when all that were there refuse."""
    seen: list[GenerationEvent] = []
    try:
        async with aclosing(pool.generate(asked(prompt, 20), Context())) as events:
            async for event in events:
                seen.append(event)
    except SeamError as error:
        if error.reason is not Reason.QUEUE_FULL or ids_of(seen):
            raise
        return []
    return seen


def _faults_of(replica: ScriptedReplica, faults: list[tuple[str, int]]) -> Callable[[int], None]:
    """Each fault mends itself a moment later, on the loop's next turns."""

    def before(number: int) -> None:
        loop = asyncio.get_running_loop()
        for fault, frame in faults:
            if frame != number:
                continue
            if fault == "kill":
                replica.kill()
                loop.call_later(0.002, replica.revive)
            elif fault == "drain":
                replica.drain()
                loop.call_later(0.002, replica.undrain)
            elif replica.held:
                replica.refusal = status("QUEUE_FULL", code_pb2.RESOURCE_EXHAUSTED, retry_after=0.002)
                loop.call_later(0.002, replica.welcome_again)

    return before
