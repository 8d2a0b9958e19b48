"""What is no longer wanted stops costing, whichever way business and inference are joined."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from business_svc.domain.inference import Context, EmbedRequest, Tokens
from business_svc.errors import Reason, SeamError
from contract.asking import NO_CONTEXT, answer, asked, expected_ids, until
from contract.conftest import World


async def test_closing_a_generation_frees_its_slot(world: World) -> None:
    async with aclosing(world.pool.generate(asked("long", 400), NO_CONTEXT)) as events:
        async for event in events:
            if isinstance(event, Tokens):
                break
    await until(lambda: world.open_slots == 0)


async def test_cancelling_while_the_model_is_busy_frees_the_slot_at_the_next_step(world: World) -> None:
    world.shut_gates()
    asking = asyncio.create_task(answer(world.pool, asked("stuck", 50)))
    await until(lambda: world.open_slots == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0.05)  # the cancel crosses; the gate is still shut
    steps = sum(replica.runner.step_count for replica in world.replicas)
    world.open_gates()
    await until(lambda: world.open_slots == 0)
    assert sum(replica.runner.step_count for replica in world.replicas) <= steps + 1


async def test_a_waiting_request_that_is_cancelled_never_runs(world: World) -> None:
    world.shut_gates()
    slots = 8 * len(world.replicas)
    running = [asyncio.create_task(answer(world.pool, asked(f"run {n}", 3))) for n in range(slots)]
    await until(lambda: world.open_slots >= 1)
    waiting = [asyncio.create_task(answer(world.pool, asked(f"wait {n}", 3))) for n in range(4)]
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.sleep(0.05)
    world.open_gates()
    await asyncio.gather(*running)
    await until(lambda: world.open_slots == 0)
    assert sum(replica.runner.opened for replica in world.replicas) <= slots


async def test_a_deadline_that_passes_is_told_and_frees_the_slot(world: World) -> None:
    world.shut_gates()
    deadline = asyncio.get_running_loop().time() + 0.2
    with pytest.raises(SeamError) as refusal:
        await answer(world.pool, asked("late", 50), Context(deadline=deadline))
    assert refusal.value.reason is Reason.DEADLINE_EXPIRED
    world.open_gates()
    await until(lambda: world.open_slots == 0)


async def test_a_deadline_already_past_is_refused_at_once(world: World) -> None:
    past = Context(deadline=asyncio.get_running_loop().time() - 1)
    for asking in (
        answer(world.pool, asked("too late"), past),
        world.pool.embed(EmbedRequest("embed", ("too late",)), past),
    ):
        with pytest.raises(SeamError) as refusal:
            await asking
        assert refusal.value.reason is Reason.DEADLINE_EXPIRED


async def test_a_reader_that_stops_holds_up_nobody_and_is_not_generated_for(world: World) -> None:
    slow = world.pool.generate(asked("slow", 450, temperature=1.0, seed=5), NO_CONTEXT)
    async with aclosing(slow) as events:
        seen: list[int] = []
        async for event in events:
            if isinstance(event, Tokens):
                seen.extend(event.ids)
                break
        others = [asked(f"fast {n}", 100, temperature=1.0, seed=n + 1) for n in range(12)]
        answers = await asyncio.gather(*(answer(world.pool, request) for request in others))
        for request, got in zip(others, answers, strict=True):
            assert got.ids == expected_ids(world.runner, request, 100)
        before = sum(replica.runner.computed_tokens for replica in world.replicas)
        await asyncio.sleep(0.1)
        assert sum(replica.runner.computed_tokens for replica in world.replicas) == before
        async for event in events:
            if isinstance(event, Tokens):
                seen.extend(event.ids)
    assert tuple(seen) == expected_ids(world.runner, asked("slow", 450, temperature=1.0, seed=5), 450)


async def test_cancelled_embeddings_leave_nothing_behind(world: World) -> None:
    world.shut_gates()
    requests = [EmbedRequest("embed", tuple(f"{n} {k}" for k in range(20))) for n in range(5)]
    tasks = [asyncio.create_task(world.pool.embed(request, NO_CONTEXT)) for request in requests]
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    world.open_gates()
    got = await world.pool.embed(replace(requests[0], texts=("after",)), NO_CONTEXT)
    assert len(got.embeddings) == 1
    await until(lambda: all(load.waiting_sequence_count == 0 for one in world.pool.replicas() for load in one.models))
