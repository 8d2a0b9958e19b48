"""Many requests on one stream, answered side by side."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import grpc
from inference import open_inference_pb2 as pb

from inference_svc.errors import Draining, MalformedFrame

MAX_IN_FLIGHT = 256  # requests of one stream whose last response was not written; no more are read until then

Respond = Callable[[pb.ModelInferRequest], AsyncGenerator[pb.ModelStreamInferResponse, None]]
Write = Callable[[pb.ModelStreamInferResponse], Awaitable[None]]


async def answer_side_by_side(
    requests: AsyncIterator[pb.ModelInferRequest], respond: Respond, write: Write, leaving: asyncio.Event
) -> None:
    """Returns when everything that was asked for is answered. Cancelled, it stops all of it. Raises, once everything
    under way is answered, Draining when the server leaves, and MalformedFrame of `requests`.

    `write` waits for the reader, and so does whoever waits for its turn to write: nothing piles up but what one
    request may have under way, times the requests in flight. `respond` tells a request's own error by itself.
    """
    room = asyncio.Semaphore(MAX_IN_FLIGHT)
    turn = asyncio.Lock()
    malformed: MalformedFrame | None = None

    async def answer(message: pb.ModelInferRequest) -> None:
        try:
            async with aclosing(respond(message)) as responses:
                async for response in responses:
                    async with turn:
                        await write(response)
        except grpc.aio.BaseError:
            pass  # the reader is gone: grpc.aio cancels the stream, and with it what else it asked for
        finally:
            room.release()

    async def read(group: asyncio.TaskGroup) -> None:
        nonlocal malformed
        try:
            async for message in requests:
                await room.acquire()
                group.create_task(answer(message), name="a request of a stream")
        except MalformedFrame as error:
            malformed = error

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read(group), name="reader of a stream")
        left = group.create_task(leaving.wait())
        await asyncio.wait((reading, left), return_when=asyncio.FIRST_COMPLETED)
        was_left = not reading.done()
        reading.cancel()
        left.cancel()
    if malformed is not None:
        raise malformed
    if was_left:
        raise Draining("this replica takes no new work")
