"""Random fault schedules over echo replicas in this process. Each is a seed and tells its story when it breaks a law.

`SEAM_CHAOS_SCHEDULES=500` runs so many, from `SEAM_CHAOS_SEED=N` on; the seed alone runs that one.

Laws: nothing lost, nothing twice, each request ended once, tokens the expected ones, nothing hangs, and at the end
nothing is held anywhere.
"""

import asyncio
import os
import random

import pytest
from support.chaos_clients import ask
from support.chaos_plan import SCHEDULE_SECONDS, Plan, World

ONE_SEED = os.environ.get("SEAM_CHAOS_SEED")
SCHEDULES = int(os.environ.get("SEAM_CHAOS_SCHEDULES", "60" if ONE_SEED is None else "1"))
FIRST = int(ONE_SEED or 0)
A_TEST = 10


async def act(world: World) -> None:
    """Something happens to a replica."""
    chance = random.Random(world.plan.chance.random())
    await asyncio.sleep(chance.uniform(0, 0.1))
    host = chance.choice(world.hosts)
    what = chance.choice(("die", "drain", "sever", "stop"))
    world.tell(f"{host.name}: {what}")
    world.kills += what != "drain"
    match what:
        case "die":
            await host.die_and_return()
        case "drain":
            await host.drain_and_return()
        case "sever":
            host.connector.sever()
        case "stop":
            await host.stop_and_continue(chance.uniform(0.05, 0.6))
    world.tell(f"{host.name}: {what} is over")


async def run(seed: int) -> None:
    before = asyncio.all_tasks()
    world = World(Plan(random.Random(seed)))
    try:
        async with asyncio.timeout(SCHEDULE_SECONDS):
            await _play(world)
            while asyncio.all_tasks() - before:  # noqa: ASYNC110 - tasks that end have no event in common
                await asyncio.sleep(0.001)
    except BaseException as broken:
        broken.add_note("\n".join(world.story))
        broken.add_note(f"fault schedule {seed}: run it alone with SEAM_CHAOS_SEED={seed}")
        raise


async def _play(world: World) -> None:
    async with world.running():
        async with asyncio.TaskGroup() as group:
            for number in range(world.plan.requests):
                group.create_task(ask(world, number))
            for _ in range(world.plan.acts):
                group.create_task(act(world))
        await _until_idle(world)
    for host in world.hosts:
        assert [runner.misuse for runner in host.runners if runner.misuse] == []
        assert host.idle


async def _until_idle(world: World) -> None:
    """Everybody has left: so has everything of them, everywhere."""
    try:
        async with asyncio.timeout(5):
            while not (  # noqa: ASYNC110 - a runner's thread frees slots without a word
                all(host.idle for host in world.hosts)
                and all(one.live_request_count == 0 for one in world.pool.replicas())
            ):
                await asyncio.sleep(0.001)
    except TimeoutError:
        slots = {host.name: [sorted(runner.open_slots) for runner in host.runners] for host in world.hosts}
        raise AssertionError(f"still held: {slots}, {world.pool.replicas()}") from None


@pytest.mark.parametrize("first", range(FIRST, FIRST + SCHEDULES, A_TEST))
async def test_no_schedule_of_faults_breaks_a_law(first: int) -> None:
    for seed in range(first, min(first + A_TEST, FIRST + SCHEDULES)):
        await run(seed)
