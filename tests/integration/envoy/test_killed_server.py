"""kill -9 of one of two business servers under load: what had begun to answer fails, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from seam.business.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    conversation_pb2,
    operations_service_pb2,
    operations_service_pb2_grpc,
    predict_service_pb2,
    predict_service_pb2_grpc,
)
from seam_client import SeamError, Unavailable
from seam_client.wire.errors import seam_error
from support.edge import METADATA, Business, Workshop

STREAMS = 12
ASKING = 6  # callers that ask again and again
AFTER = 60  # answers that they still get after the kill
NO_RETRIES = (("grpc.enable_retries", 0),)


@dataclass
class Stream:
    """One long answer, as its reader sees it."""

    news: int = 0
    error: SeamError | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def read(self, channel: grpc.aio.Channel) -> None:
        request = chat_service_pb2.ChatRequest(
            messages=[conversation_pb2.Message(role="user", content="hello")],
            stop=conversation_pb2.StopConditions(max_output_tokens=1900, ignore_end_token=True),
        )
        call = chat_service_pb2_grpc.ChatServiceStub(channel).Chat(request, metadata=METADATA)
        try:
            async for _ in call:
                await self._tell(news=1)
        except grpc.aio.AioRpcError as failed:
            await self._tell(error=seam_error(failed, "the edge"))
        finally:
            call.cancel()

    async def _tell(self, news: int = 0, error: SeamError | None = None) -> None:
        async with self.changed:
            self.news += news
            self.error = error
            self.changed.notify_all()

    async def goes_on(self, count: int = 1) -> None:
        """Until there is more news, or an error."""
        wanted = self.news + count
        async with self.changed:
            await self.changed.wait_for(lambda: self.news >= wanted or self.error is not None)


@dataclass
class Callers:
    """Short calls, one after the other, through the same edge."""

    answered: int = 0
    failed: list[grpc.aio.AioRpcError] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def ask(self, channel: grpc.aio.Channel) -> None:
        stub = predict_service_pb2_grpc.PredictServiceStub(channel)
        while True:
            request = predict_service_pb2.PredictRequest(text="hello", max_output_tokens=20)
            try:
                await stub.Predict(request, metadata=METADATA)
            except grpc.aio.AioRpcError as error:
                self.failed.append(error)
            async with self.changed:
                self.answered += 1
                self.changed.notify_all()

    async def until(self, more: int) -> None:
        wanted = self.answered + more
        async with self.changed:
            await self.changed.wait_for(lambda: self.answered >= wanted)


async def live_requests(business: Business) -> int:
    async with grpc.aio.insecure_channel(business.grpc) as channel:
        stub = operations_service_pb2_grpc.OperationsServiceStub(channel)
        status = await stub.GetStatus(operations_service_pb2.GetStatusRequest(), metadata=METADATA)
    return sum(replica.live_request_count for replica in status.replicas)


@asynccontextmanager
async def running(*works: object) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(work) for work in works]  # type: ignore[call-overload]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_only_answers_that_had_begun_fail_and_each_may_be_tried_again(own: Workshop) -> None:
    replica = await asyncio.to_thread(own.replica, 0.01)
    victim, other = [await asyncio.to_thread(own.business, replica) for _ in range(2)]
    envoy = await asyncio.to_thread(own.envoy, victim, other)
    streams = [Stream() for _ in range(STREAMS)]
    callers = Callers()
    async with (
        asyncio.timeout(120),
        grpc.aio.insecure_channel(envoy.edge, options=NO_RETRIES) as channel,
        running(*(stream.read(channel) for stream in streams)),
    ):
        await asyncio.gather(*(stream.goes_on(3) for stream in streams))
        doomed = await live_requests(victim)
        assert 0 < doomed < STREAMS
        async with running(*(callers.ask(channel) for _ in range(ASKING))):
            await callers.until(10)
            victim.process.kill()
            late = [Stream() for _ in range(STREAMS)]  # these have to find out who is left
            async with running(*(stream.read(channel) for stream in late)):
                await asyncio.gather(*(stream.goes_on(3) for stream in late))
                await callers.until(AFTER)
                await asyncio.gather(*(stream.goes_on(20) for stream in streams))
                failed = [stream.error for stream in streams if stream.error is not None]
                assert [stream.error for stream in late] == [None] * STREAMS
    assert callers.failed == []
    assert len(failed) == doomed
    assert {type(error) for error in failed} == {Unavailable}
