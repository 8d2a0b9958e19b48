"""What callers see while models come, go, sleep and wake beneath them."""

import asyncio
from contextlib import aclosing

import pytest
from business_svc.domain.inference import Context, EmbedRequest, Tokens
from business_svc.errors import Reason, SeamError
from contract.asking import NO_CONTEXT, Answer, answer, asked
from contract.conftest import World
from inference_svc.model import ModelSpec
from inference_svc.requests import ModelState, Task


async def load_everywhere(world: World, name: str) -> None:
    for replica in world.replicas:
        async for _ in replica.server.residency.load(ModelSpec(name, Task.EMBED, "echo")).progresses():
            pass


async def names_are(world: World, expected: set[str]) -> None:
    """Returns when the pool knows these models and no others."""
    async with asyncio.timeout(10):
        await world.pool._placing.until(lambda: {model.name for model in world.pool.models()} == expected)


async def test_a_model_that_is_loaded_is_asked_at_once_and_one_that_is_unloaded_no_more(world: World) -> None:
    await load_everywhere(world, "more")
    await names_are(world, {"chat", "embed", "score", "more"})
    vectors = await world.pool.embed(EmbedRequest("more", ("a", "b")), NO_CONTEXT)
    assert len(vectors.embeddings) == 2
    for replica in world.replicas:
        assert await replica.server.residency.unload("more", 0.0) == 0
    await names_are(world, {"chat", "embed", "score"})
    with pytest.raises(SeamError) as caught:
        await world.pool.embed(EmbedRequest("more", ("a",)), NO_CONTEXT)
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


async def test_an_answer_goes_on_elsewhere_when_its_model_is_unloaded_or_fails_so_that_it_may_be_tried_again(
    world: World,
) -> None:
    long = asked("go on", count=200, temperature=0.7, seed=5)  # more than a reader that stops is sent
    expected = await answer(world.pool, long)
    ids: list[int] = []
    async with asyncio.timeout(20), aclosing(world.pool.generate(long, NO_CONTEXT)) as events:
        while not ids:
            event = await anext(events)
            ids += event.ids if isinstance(event, Tokens) else ()
        busy = next(replica for replica in world.replicas if replica.runner.open_slots)
        assert await busy.server.residency.unload("chat", 0.0) == 1
        if len(world.replicas) == 1:
            with pytest.raises(SeamError) as caught:
                [event async for event in events]
            assert caught.value.reason is Reason.NO_REPLICA
            assert caught.value.retry_after is not None
            return
        async for event in events:
            ids += event.ids if isinstance(event, Tokens) else ()
    assert tuple(ids) == expected.ids


async def test_a_model_that_is_unloaded_with_grace_finishes_its_answers(world: World) -> None:
    count = 0
    async with (
        asyncio.timeout(20),
        aclosing(world.pool.generate(asked("finish", count=200), NO_CONTEXT)) as events,
        asyncio.TaskGroup() as tasks,
    ):
        while not count:
            event = await anext(events)
            count += len(event.ids) if isinstance(event, Tokens) else 0
        unloads = [tasks.create_task(one.server.residency.unload("chat", 15.0)) for one in world.replicas]
        await names_are(world, {"embed", "score"})
        async for event in events:
            count += len(event.ids) if isinstance(event, Tokens) else 0
    assert count == 200
    assert [one.result() for one in unloads] == [0] * len(world.replicas)


async def test_requests_wake_a_model_that_sleeps_and_find_it_as_it_was(world: World) -> None:
    prompts = [f"number {number}" for number in range(6)]
    before = [await answer(world.pool, asked(prompt)) for prompt in prompts]
    for replica in world.replicas:
        await replica.server.residency.sleep("chat")
        assert replica.server.catalogue.entry("chat").state is ModelState.SLEEPING
    embedded = await world.pool.embed(EmbedRequest("embed", ("others go on",)), NO_CONTEXT)
    assert len(embedded.embeddings) == 1
    assert {model.name for model in world.pool.models() if model.ready} == {"chat", "embed", "score"}
    after: list[Answer] = await asyncio.gather(*(answer(world.pool, asked(prompt)) for prompt in prompts))
    assert [one.ids for one in after] == [one.ids for one in before]


async def test_a_deadline_that_waking_cannot_meet_is_refused_and_the_model_wakes_for_the_next(world: World) -> None:
    for replica in world.replicas:
        replica.server.residency._took["chat"] = 600.0
        await replica.server.residency.sleep("chat")
    deadline = asyncio.get_running_loop().time() + 5.0
    with pytest.raises(SeamError) as caught:
        await answer(world.pool, asked("soon"), Context(deadline=deadline))
    assert caught.value.reason is Reason.DEADLINE_INFEASIBLE
    assert caught.value.retry_after is not None
    async with asyncio.timeout(10):
        for replica in world.replicas:
            await replica.server.residency.wake("chat")
    assert (await answer(world.pool, asked("soon"), Context(deadline=deadline))).ids
