"""What replicas tell of their time and work since their start, as the business comes to know it."""

import asyncio

from business_svc.domain.inference import Replica
from contract.asking import answer, asked
from contract.conftest import World


def _finished(replica: Replica) -> int:
    return replica.totals.models["chat"].finished_request_count if replica.totals else 0


async def test_the_business_learns_where_a_replicas_time_went_and_what_it_gave(world: World) -> None:
    assert all(replica.totals for replica in world.pool.replicas()), "the first frame tells them"
    for _ in range(4):
        await answer(world.pool, asked("a seam", count=5))
    async with asyncio.timeout(10):
        while sum(map(_finished, world.pool.replicas())) < 4:  # noqa: ASYNC110  (told by heartbeats)
            await asyncio.sleep(0.02)
    totals = [replica.totals for replica in world.pool.replicas() if replica.totals]
    assert sum(one.models["chat"].output_token_count for one in totals) == 20
    assert all(one.models["embed"].finished_request_count == 0 for one in totals)
    assert sum(one.device_time.computing for one in totals) > 0
    assert all(one.device_time.no_work > 0 and one.age >= 0 for one in totals)
