"""A replica that means harm, or is broken, loses its session for a reason that is told; its requests end once, and
others answer them.

`SEAM_FUZZ_CASES` and `SEAM_FUZZ_SEED` as for the hostile frames of clients.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from business_svc.domain.inference import Context, EmbedRequest, Tokens
from business_svc.link.grpc_duplex import GrpcConnector
from business_svc.link.membership import ReconnectSettings
from business_svc.link.outliers import OutlierSettings
from business_svc.link.pool import Pool, PoolSettings
from seam.inference.v1.session_pb2 import SessionResponse
from support.duplex import ScriptedReplica, grpc_replica
from support.hostile import parsed, responses_of, welcome
from support.link import asked, check_whole, read, until

from .test_session import HandDuplex, read_to_end, session_with

ONE_SEED = os.environ.get("SEAM_FUZZ_SEED")
CASES = int(os.environ.get("SEAM_FUZZ_CASES", "4000" if ONE_SEED is None else "1"))
FIRST = int(ONE_SEED or 0)
A_TEST = 1_000
WINDOW = 8


def say(peer: HandDuplex, raw: bytes) -> None:
    frame = parsed(raw, SessionResponse)
    if frame is None:
        peer.die()  # as the duplex tells of bytes that are no message
    else:
        peer.coming.put_nowait(frame)


async def play(seed: int) -> None:
    async with session_with(window=WINDOW) as (session, peer, running):
        exchanges = [session.open(asked("p"), Context()), session.open(asked("q"), Context())]
        exchanges.append(session.open(EmbedRequest("embed", ("a", "b")), Context()))
        await until(lambda: peer.submits == [1, 2, 3])
        reading = [asyncio.create_task(read_to_end(one)) for one in exchanges]
        for raw in responses_of(seed):
            say(peer, raw)
        peer.end()
        assert await running
        for one, news in zip(exchanges, [await task for task in reading], strict=True):
            assert one.ended
            tokens = sum(len(each.ids) for each in news if isinstance(each, Tokens))
            assert tokens <= WINDOW + peer.granted
        assert session.live_request_count == 0
        assert not +session.unseen


@pytest.mark.parametrize("first", range(FIRST, FIRST + CASES, A_TEST))
async def test_whatever_a_replica_says_each_request_ends_once_and_the_session_for_a_reason(first: int) -> None:
    for seed in range(first, min(first + A_TEST, FIRST + CASES)):
        try:
            await play(seed)
        except BaseException as broken:
            broken.add_note(f"hostile replica {seed}: play it alone with SEAM_FUZZ_SEED={seed}")
            raise


def ids_without_end() -> SessionResponse:
    frame = SessionResponse()
    for request_id in range(1, 9):
        frame.events.add(request_id=request_id).accepted.input_token_count = 1
    frame.events.add(request_id=10**12).tokens.ids.append(1)
    return frame


def columns_that_do_not_add_up() -> SessionResponse:
    frame = SessionResponse()
    frame.tokens.request_ids.append(1)
    frame.tokens.id_counts.append(2**32 - 1)
    frame.tokens.text_byte_counts.append(1)
    return frame


def loads_without_end() -> SessionResponse:
    frame = SessionResponse()
    for _ in range(100_000):
        frame.load.models.add(model="chat")
    return frame


NONSENSE = (
    b"\xff\xfe\xfd",
    ids_without_end().SerializeToString(),
    columns_that_do_not_add_up().SerializeToString(),
    loads_without_end().SerializeToString(),
    SessionResponse(events=[{"request_id": 1, "finished": {}}]).SerializeToString(),
    SessionResponse(events=[{"request_id": 1}]).SerializeToString(),
)


class Hostile(grpc.GenericRpcHandler):
    """Welcomes, waits to be asked, and talks nonsense: of another kind in each session."""

    def __init__(self) -> None:
        self._kinds = itertools.cycle(NONSENSE)
        self.said: set[bytes] = set()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.stream_stream_rpc_method_handler(self._session)

    async def _session(self, requests: AsyncIterator[bytes], call: object) -> AsyncIterator[bytes]:
        hello = await anext(requests)
        assert hello
        yield welcome().SerializeToString()
        async for _ in requests:
            nonsense = next(self._kinds)
            self.said.add(nonsense)
            yield nonsense


@asynccontextmanager
async def hostile_replica() -> AsyncIterator[tuple[str, Hostile]]:
    server = grpc.aio.server()
    hostile = Hostile()
    server.add_generic_rpc_handlers((hostile,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", hostile
    finally:
        await server.stop(None)


async def test_others_serve_while_a_replica_talks_nonsense_and_the_log_says_which(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = ScriptedReplica("good")
    settings = PoolSettings(
        reconnect=ReconnectSettings(first_pause=0.1, longest_pause=0.1), outliers=OutlierSettings(failures=1000)
    )
    async with (
        asyncio.timeout(60),
        hostile_replica() as (bad_address, bad),
        grpc_replica(good) as good_address,
        Pool([GrpcConnector(bad_address), GrpcConnector(good_address)], settings) as pool,
    ):
        for number in range(100):
            await pool.ready(2)
            prompts = [f"round {number}, prompt {n}" for n in range(8)]
            for prompt, events in zip(
                prompts, await asyncio.gather(*(read(pool, asked(one)) for one in prompts)), strict=True
            ):
                check_whole(events, prompt, 12)
            if len(bad.said) == len(NONSENSE):
                break
        assert len(bad.said) == len(NONSENSE)
    for why in (
        "which is not live",
        "token columns",
        "100000 models",
        "finished before",
        "nothing known",
        "no message of",
    ):
        assert f"session with replica {bad_address} ended: " in caplog.text
        assert why in caplog.text
