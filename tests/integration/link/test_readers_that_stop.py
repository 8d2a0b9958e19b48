"""Back-pressure from end to end: callers of both edges stop reading, and the engine, in another process, stops for them
alone; what they do not read fills sockets and a window of credits, and nothing else."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from business_svc.replicas import pool_of
from business_svc.server import Running, serve
from business_svc.settings import read_settings
from seam.business.v1 import chat_service_pb2
from seam.business.v1.chat_service_pb2_grpc import ChatServiceStub
from support.chaos_processes import ReplicaProcess, echo_server

KEY = "a-key-that-is-long-enough"
METADATA = (("authorization", f"Bearer {KEY}"),)
SMALL_WINDOWS = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))
MANY = 5_000  # tokens of an answer: far more than sockets on the way hold
SOCKETS_HOLD = 3_000  # tokens, of both, at most


@asynccontextmanager
async def business_over(replica: ReplicaProcess) -> AsyncIterator[Running]:
    settings = read_settings(
        api_keys=f"acme:{KEY}",
        grpc_listen="127.0.0.1:0",
        http_listen="127.0.0.1:0",
        replicas=replica.address,
        link_plaintext=True,
    )
    async with pool_of(settings) as pool:
        await pool.ready()
        async with serve(settings, pool) as running:
            yield running


def chat(count: int) -> chat_service_pb2.ChatRequest:
    return chat_service_pb2.ChatRequest(
        messages=[{"role": "user", "content": "hello"}], stop={"max_output_tokens": count}
    )


async def text_of(call: "grpc.aio.UnaryStreamCall[chat_service_pb2.ChatRequest, chat_service_pb2.ChatResponse]") -> str:
    pieces = []
    while (response := await call.read()) is not grpc.aio.EOF:
        pieces.append(response.text.text)
    return "".join(pieces)


async def http_stream(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Through a socket that holds little."""
    host, _, port = address.rpartition(":")
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=narrow, limit=1024)
    asked = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": MANY}
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return reader, writer


async def until_still(replica: ReplicaProcess) -> int:
    """The tokens computed once no more are."""
    before, now = -1, 0
    while before != now or not now:
        await asyncio.sleep(0.5)
        before, now = now, (await replica.state())["computed_tokens"]
    return now


async def test_the_engine_stops_for_those_who_stop_reading_and_for_nobody_else() -> None:
    """There are slots for all: who has no credits for a moment while others wait gives its slot away, and is computed
    again, which the sum could not tell from going on."""
    async with (
        asyncio.timeout(150),
        echo_server("--context", "6000", "--step-seconds", "0.0002", "--slots", "8") as replica,
        business_over(replica) as business,
        grpc.aio.insecure_channel(business.grpc_address, options=SMALL_WINDOWS) as narrow,
        grpc.aio.insecure_channel(business.grpc_address) as wide,
    ):
        stopped = ChatServiceStub(narrow).Chat(chat(MANY), metadata=METADATA)
        assert (await stopped.read()).HasField("started")
        reader, writer = await http_stream(business.http_address)
        assert b"200" in await reader.readline()
        computed = await until_still(replica)
        assert computed < SOCKETS_HOLD
        memory = replica.memory
        others = [ChatServiceStub(wide).Chat(chat(200), metadata=METADATA) for _ in range(6)]
        texts = await asyncio.gather(*(text_of(call) for call in others))
        assert {len(text) for text in texts} == {200}
        state = await replica.state()
        assert state["live_requests"] == 2
        assert state["computed_tokens"] - computed < 6 * 250, "nothing more for those who do not read"
        assert replica.memory - memory < 32 * 1024 * 1024
        writer.transport.abort()
        rest = await text_of(stopped)
        assert len(rest) == MANY
        assert rest.startswith(texts[0])
        assert (await replica.idle())["live_requests"] == 0
