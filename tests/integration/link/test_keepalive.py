"""Both sides' settings of keepalive agree: pings on a silent session are answered, not punished."""

import asyncio
from contextlib import AsyncExitStack

from business_svc.link.duplex import DuplexLost
from business_svc.link.grpc_duplex import KEEPALIVE_TIME, GrpcConnector, GrpcDuplex
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.server import serve
from inference_svc.settings import Settings
from inference_svc.wire.grpc_server import MIN_PING_INTERVAL_MS
from seam.inference.v1 import session_pb2
from support.duplex import ScriptedReplica, grpc_replica
from support.echo import echo_model

PING_MS = 1_000
SILENCE_SECONDS = 6.5  # a server of gRPC's own settings hangs up after five
OFTEN = (("grpc.keepalive_time_ms", PING_MS), ("grpc.http2.max_pings_without_data", 0))


async def silent_session(address: str, stack: AsyncExitStack) -> GrpcDuplex:
    duplex = await GrpcConnector(address, options=OFTEN).connect()
    stack.push_async_callback(duplex.aclose)
    hello = session_pb2.Hello(protocol_revision=1, client_id="test")
    await duplex.send(session_pb2.SessionRequest(hello=hello))
    welcome = await duplex.receive()
    assert welcome is not None
    assert welcome.HasField("welcome")
    return duplex


def load(spec: ModelSpec, progress: object) -> LoadedModel:
    return echo_model(spec.name, spec.task)


def test_the_business_pings_less_often_than_the_inference_server_allows() -> None:
    assert KEEPALIVE_TIME * 1000 >= 2 * MIN_PING_INTERVAL_MS


async def test_a_session_without_a_word_outlives_pings_for_which_a_server_of_other_settings_hangs_up() -> None:
    other = ScriptedReplica()
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        ours = await stack.enter_async_context(serve(Settings(listen="127.0.0.1:0", heartbeat_seconds=60), load=load))
        await ours.ready()
        session = await silent_session(ours.address, stack)
        control = await silent_session(await stack.enter_async_context(grpc_replica(other)), stack)
        other.stall()
        reading, controlled = asyncio.ensure_future(session.receive()), asyncio.ensure_future(_until_lost(control))
        await asyncio.wait((reading,), timeout=SILENCE_SECONDS)
        assert not reading.done()
        assert "Too many pings" in str(await controlled)
        submit = session_pb2.Submit(request_id=1, model="embed")
        submit.embed.texts.append("still here")
        await session.send(session_pb2.SessionRequest(submits=[submit]))
        answer = await reading
        assert answer is not None
        assert answer.events[0].request_id == 1


async def _until_lost(duplex: GrpcDuplex) -> DuplexLost:
    try:
        while await duplex.receive() is not None:
            pass
    except DuplexLost as lost:
        return lost
    raise AssertionError("it ended in order")
