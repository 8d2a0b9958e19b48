"""The same pool over real connections: TCP and a Unix socket."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from business_svc.domain.inference import Context, EmbedRequest, Tokens
from business_svc.link.duplex import DuplexLost
from business_svc.link.grpc_duplex import GrpcConnector, GrpcDuplex
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.pool import Pool
from business_svc.link.session import Session, SessionSettings
from business_svc.link.tls import PeerRefused
from seam.inference.v1 import session_pb2
from seam.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse
from support.cable import cable_to
from support.duplex import ScriptedReplica, grpc_replica
from support.link import asked, check_whole, quick_settings, read, until


@pytest.fixture(params=["tcp", "unix"])
def listen(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/replica"


@asynccontextmanager
async def pool_over(listen: str, *replicas: ScriptedReplica) -> AsyncIterator[Pool]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(30))
        connectors = []
        for number, replica in enumerate(replicas):
            where = f"{listen}{number}" if listen.startswith("unix:") else listen
            connectors.append(GrpcConnector(await stack.enter_async_context(grpc_replica(replica, where))))
        pool = await stack.enter_async_context(Pool(connectors, quick_settings()))
        await pool.ready(len(replicas))
        yield pool


async def test_many_answers_share_a_connection(listen: str) -> None:
    replica = ScriptedReplica()
    async with pool_over(listen, replica) as pool:
        answers = await asyncio.gather(*(read(pool, asked(f"p{number}", 50)) for number in range(32)))
        for number, events in enumerate(answers):
            check_whole(events, f"p{number}", 50)
        embedded = await pool.embed(EmbedRequest("embed", ("a", "bb")), Context())
        assert [one.values[0] for one in embedded.embeddings] == [1.0, 2.0]


async def test_a_connection_cut_in_the_middle_is_not_seen_by_the_reader(listen: str) -> None:
    first, second = ScriptedReplica("first"), ScriptedReplica("second")
    async with pool_over(listen, first, second) as pool:
        first.before_frame = lambda number: first.kill() if number == 7 else None
        answers = await asyncio.gather(*(read(pool, asked(f"p{number}", 40)) for number in range(16)))
        for number, events in enumerate(answers):
            check_whole(events, f"p{number}", 40)
        assert first.dead


async def test_a_replica_that_starts_late_or_again_is_found(listen: str) -> None:
    replica = ScriptedReplica()
    async with pool_over(listen, replica) as pool:
        replica.kill()
        await until(lambda: pool.replicas()[0].state.value == "connecting")
        replica.revive()
        check_whole(await read(pool, asked("again")), "again", 12)


async def test_a_reader_that_leaves_frees_the_replica(listen: str) -> None:
    replica = ScriptedReplica()
    async with pool_over(listen, replica) as pool:
        async with aclosing(pool.generate(asked("left", 5000), Context())) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    break
        await until(lambda: not replica.held)
        assert len(replica.cancelled) == 1


async def test_a_cable_cut_without_a_word_is_noticed_by_the_silence() -> None:
    far, near = ScriptedReplica("far"), ScriptedReplica("near")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(30))
        cable = await stack.enter_async_context(cable_to(await stack.enter_async_context(grpc_replica(far))))
        near_address = await stack.enter_async_context(grpc_replica(near))
        settings = replace(quick_settings(), heartbeat_timeout=0.5)
        connectors = [GrpcConnector(cable.address), GrpcConnector(near_address)]
        pool = await stack.enter_async_context(Pool(connectors, settings))
        await pool.ready(2)
        far.before_frame = lambda number: cable.cut() if number == 10 else None
        answers = await asyncio.gather(*(read(pool, asked(f"p{number}", 60)) for number in range(8)))
        for number, events in enumerate(answers):
            check_whole(events, f"p{number}", 60)
        assert far.submitted
        assert pool.replicas()[0].state.value == "connecting"


async def test_a_local_replica_is_asked_first_and_a_remote_one_when_it_is_busy() -> None:
    local, remote = ScriptedReplica("local"), ScriptedReplica("remote")
    async with asyncio.timeout(20), grpc_replica(remote) as address:
        connectors = [GrpcConnector(address), InProcessConnector(local.serve)]
        async with Pool(connectors, quick_settings()) as pool:
            await pool.ready(2)
            for number in range(5):
                check_whole(await read(pool, asked(f"p{number}")), f"p{number}", 12)
            assert (len(local.submitted), len(remote.submitted)) == (5, 0)
            local.predicted_wait = 1.0
            await until(lambda: pool.replicas()[1].models[0].predicted_wait == 1.0)
            check_whole(await read(pool, asked("over")), "over", 12)
            assert (len(local.submitted), len(remote.submitted)) == (5, 1)


async def test_nobody_listening_is_no_replica_and_no_hang() -> None:
    async with Pool([GrpcConnector("127.0.0.1:1")], quick_settings()) as pool:
        assert [one.state.value for one in pool.replicas()] == ["connecting"]
        assert pool.models() == ()


async def test_what_a_replica_said_last_is_read_though_writes_to_it_fail(listen: str) -> None:
    replica = ScriptedReplica()
    replica.before_frame = lambda number: replica.kill() if number == 30 else None
    async with grpc_replica(replica, listen) as address:
        duplex = await GrpcConnector(address).connect()
        await duplex.send(SessionRequest(hello=session_pb2.Hello(protocol_revision=1)))
        submit = session_pb2.Submit(request_id=1, model="chat")
        submit.generate.prompt.chat.messages.add(role="user", content="p")
        submit.generate.stop.max_output_tokens = 100
        await duplex.send(SessionRequest(submits=[submit]))
        async with asyncio.timeout(10):
            with pytest.raises(DuplexLost):
                await write_without_end(duplex)
            said: list[SessionResponse] = []
            with pytest.raises(DuplexLost, match="died"):
                await read_into(said, duplex)
        assert sum(len(event.tokens.ids) for frame in said for event in frame.events) == 29  # a token in each frame
        await duplex.aclose()


async def write_without_end(duplex: GrpcDuplex) -> None:
    while True:
        await duplex.send(SessionRequest(grants=[session_pb2.Grant(request_id=1, credits=1)] * 50))


async def read_into(said: list[SessionResponse], duplex: GrpcDuplex) -> None:
    while (frame := await duplex.receive()) is not None:
        said.append(frame)


class Refusing(InferenceServiceServicer):
    """On a thread of its own: it refuses while the test's loop looks elsewhere."""

    def Session(self, requests: object, call: Any) -> Iterator[SessionResponse]:
        call.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")


@pytest.mark.parametrize("pause", [0, 0.001, 0.003, 0.005, 0.01])
async def test_why_a_session_was_refused_is_told_whenever_the_refusal_comes(pause: float) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    add_InferenceServiceServicer_to_server(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        for turns in range(40):
            duplex = await GrpcConnector(f"127.0.0.1:{port}").connect()
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            time.sleep(pause)  # noqa: ASYNC251 - the loop is to stand still
            async with asyncio.timeout(10):
                with pytest.raises(PeerRefused, match="not you"):
                    await Session.greet(duplex, SessionSettings("test"))
            await duplex.aclose()
    finally:
        server.stop(None)
