"""The way that tests cut is itself to be trusted: a reader of it who is cancelled ends, whenever that comes."""

import asyncio

import pytest
from seam.inference.v1.session_pb2 import SessionResponse
from support.tapped import Books, TappedDuplex


class Arriving:
    """A duplex whose frames come when the test says."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[SessionResponse] = asyncio.Queue()

    async def send(self, frame: object) -> None:
        raise NotImplementedError

    async def receive(self) -> SessionResponse:
        return await self.frames.get()

    async def aclose(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("turns", range(8))
async def test_a_reader_that_is_cancelled_while_a_frame_is_handed_over_ends(turns: int) -> None:
    arriving = Arriving()
    tapped = TappedDuplex(arriving, Books())

    async def read() -> None:
        while True:
            await tapped.receive()

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.001)
    arriving.frames.put_nowait(SessionResponse())
    for _ in range(turns):
        await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader], timeout=1)
    assert reader.cancelled()
