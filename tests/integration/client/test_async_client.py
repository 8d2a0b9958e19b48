"""What only asyncio can do to a call: cancel its task, close it from another task, run many in a group."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from seam_client import AsyncSeam, Cancelled
from support.fake_business import KEY, FakeBusiness


@pytest.fixture
async def seam(business: FakeBusiness) -> AsyncIterator[AsyncSeam]:
    async with AsyncSeam(business.target, api_key=KEY) as client:
        yield client


async def test_cancelling_the_task_that_reads_cancels_the_call(seam: AsyncSeam, business: FakeBusiness) -> None:
    reading = asyncio.create_task(seam.chat("hold").text())
    assert await asyncio.to_thread(business.holding.wait, 10)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await asyncio.to_thread(business.cancelled.wait, 10)


async def test_cancelling_the_task_of_a_unary_call_cancels_the_call(seam: AsyncSeam, business: FakeBusiness) -> None:
    asking = asyncio.create_task(seam.predict("hold"))
    assert await asyncio.to_thread(business.holding.wait, 10)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await asyncio.to_thread(business.cancelled.wait, 10)


async def test_a_timeout_of_asyncio_stays_a_timeout(seam: AsyncSeam) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await seam.predict("hold")


async def test_closing_the_stream_from_another_task_is_cancelled_for_the_reader(
    seam: AsyncSeam, business: FakeBusiness
) -> None:
    stream = seam.chat("hold")
    reading = asyncio.create_task(stream.text())
    assert await asyncio.to_thread(business.holding.wait, 10)
    await stream.close()
    with pytest.raises(Cancelled):
        await reading


async def test_closing_the_client_ends_what_is_in_flight(seam: AsyncSeam, business: FakeBusiness) -> None:
    asking = asyncio.create_task(seam.predict("hold"))
    assert await asyncio.to_thread(business.holding.wait, 10)
    await seam.close()
    with pytest.raises(Cancelled):
        await asking
    assert await asyncio.to_thread(business.cancelled.wait, 10)


@pytest.mark.parametrize("order", ["fail CANCELLED", "bare CANCELLED"])
async def test_a_cancel_by_the_server_is_an_error_and_does_not_pass_for_the_tasks_own(
    seam: AsyncSeam, order: str
) -> None:
    for asking in (seam.predict(order), seam.chat(order).text()):
        with pytest.raises(Cancelled):
            await asking


async def test_a_stream_that_is_forgotten_is_cancelled(seam: AsyncSeam, business: FakeBusiness) -> None:
    await anext(seam.chat("hold"))
    assert await asyncio.to_thread(business.cancelled.wait, 10)


async def test_many_calls_share_one_client(seam: AsyncSeam) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(seam.chat(f"drip {n}").text()) for n in range(1, 33)]
    assert [task.result().split() for task in tasks] == [[str(i) for i in range(n)] for n in range(1, 33)]
