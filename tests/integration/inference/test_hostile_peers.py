"""A real server in a process of its own, attacked over real connections in every way at once, with an honest client
beside: its answers are exact, the server's memory stays where it was, and nothing of the attackers is left in it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc
from seam.inference.v1 import inference_service_pb2, session_pb2
from seam.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from support.chaos_processes import ReplicaProcess, echo_server
from support.honest import ask_until
from support.hostile import HELLO, case_of
from support.session_client import SessionClient, generation

SESSION = "/seam.inference.v1.InferenceService/Session"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CASES = 200  # of raw frames, in a round
ROUNDS = 3
MOST_GROWTH = 64 * 1024 * 1024  # bytes, from the second round on
SMALL_WINDOWS = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))

Attack = Callable[[str, random.Random], Awaitable[None]]


async def talk(channel: grpc.aio.Channel, *frames: bytes, reads: int = 3) -> None:
    """Says it all, reads a little, and goes away."""
    call = channel.stream_stream(SESSION)()
    try:
        for frame in frames:
            await call.write(frame)
        for _ in range(reads):
            if await call.read() is grpc.aio.EOF:
                return
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the server ended the call, which is its right
    finally:
        call.cancel()


async def raw_frames(address: str, chance: random.Random) -> None:
    seeds = iter(range(first := chance.randrange(2**32), first + CASES))
    async with grpc.aio.insecure_channel(address) as channel:

        async def some() -> None:
            for seed in seeds:
                case = case_of(seed)
                await talk(channel, *case.frames, reads=min(case.reads, 2))

        await asyncio.gather(*(some() for _ in range(8)))


async def floods(address: str, chance: random.Random) -> None:
    """Frames of as many entries as a frame may have and more, of ids never seen, read by nobody."""
    many = 65_536
    cancel, submit = b"\x1a\x02\x08\x07", b"\x12\x02\x08\x07"
    grant = session_pb2.SessionRequest(grants=[session_pb2.Grant(request_id=2**64 - 1, credits=2**32 - 1)])
    async with grpc.aio.insecure_channel(address, options=SMALL_WINDOWS) as channel:
        for frame in (cancel * many, grant.SerializeToString() * many, submit * many, b"\x1a\x00" * 500_000):
            await talk(channel, HELLO, frame, reads=2)


async def hellos(address: str, chance: random.Random) -> None:
    """Sessions by the hundred, with and without a hello, that stay as long as they can and do nothing."""
    async with grpc.aio.insecure_channel(address) as channel:
        calls = [channel.stream_stream(SESSION)() for _ in range(200)]
        for call in calls[::2]:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(HELLO)
        await asyncio.sleep(0.2)
        for call in calls:
            call.cancel()


async def storm_of_resets(address: str, chance: random.Random) -> None:
    """Work submitted and given up at once, again and again."""
    submits = [generation(n, tokens=400) for n in range(1, 9)]
    work = session_pb2.SessionRequest(submits=submits).SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        for _ in range(100):
            call = channel.stream_stream(SESSION)()
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(HELLO)
                await call.write(work)
            call.cancel()


async def never_reading(address: str, chance: random.Random) -> None:
    """All credits of the world, and not one frame read."""
    async with grpc.aio.insecure_channel(address, options=SMALL_WINDOWS) as channel:
        call = channel.stream_stream(SESSION)()
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            async with asyncio.timeout(2):
                await call.write(HELLO)
                for first in range(1, 800, 40):
                    frame = session_pb2.SessionRequest()
                    for n in range(first, first + 40):
                        frame.submits.append(generation(n, tokens=1500, credits=2**32 - 1))
                        frame.submits[-1].generate.detail.logprobs = n % 2 == 0
                    await call.write(frame.SerializeToString())
        call.cancel()


async def slow_bytes(address: str, chance: random.Random) -> None:
    """Connections that never become HTTP/2, or only just, byte by byte; and calls that never say what they want."""
    host, _, port = address.rpartition(":")
    for opening in (b"", PREFACE[:7], PREFACE, PREFACE + b"\x00\x00\x04\x04", chance.randbytes(200)):
        _, writer = await asyncio.open_connection(host, int(port))
        with suppress(OSError):
            for at in range(len(opening)):
                writer.write(opening[at : at + 1])
                await writer.drain()
                await asyncio.sleep(0.001)
        writer.transport.abort()
    async with grpc.aio.insecure_channel(address) as channel:
        unsaid = [channel.stream_unary("/seam.inference.v1.InferenceService/Embed")() for _ in range(100)]
        await asyncio.sleep(0.1)
        for call in unsaid:
            call.cancel()


async def calls_given_up(address: str, chance: random.Random) -> None:
    """The door of single calls: garbage, and answers nobody waits for."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = InferenceServiceStub(channel)
        garbage = channel.unary_stream("/seam.inference.v1.InferenceService/Generate")
        for _ in range(25):
            with suppress(grpc.aio.AioRpcError):
                async for _ in garbage(chance.randbytes(20)):
                    pass
            work = generation(1, tokens=1500).generate
            call = stub.Generate(inference_service_pb2.GenerateRequest(model="chat", work=work))
            await call.read()
            call.cancel()


ATTACKS: tuple[Attack, ...] = (
    raw_frames, floods, hellos, storm_of_resets, never_reading, slow_bytes, calls_given_up
)  # fmt: skip


async def until_left(server: ReplicaProcess) -> None:
    """Nothing is held for those who went away."""
    try:
        async with asyncio.timeout(30):
            while (state := await server.state())["sessions"] or state["live_requests"]:  # noqa: ASYNC110 - a process
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"still held: {state}") from None
    assert (state["open_slots"], state["misuse"]) == (0, [])


async def test_attacks_of_every_kind_at_once_hurt_nobody_and_leave_nothing() -> None:
    async with asyncio.timeout(170), echo_server("--sturdy", "--step-seconds", "0.0005", "--slots", "8") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            for number in range(ROUNDS):
                over = asyncio.Event()
                client = SessionClient(InferenceServiceStub(channel).Session)
                client.hello()
                honest = asyncio.create_task(ask_until(client, over.is_set))
                async with asyncio.TaskGroup() as group:
                    for attack in ATTACKS:
                        group.create_task(attack(server.address, random.Random(f"{number} {attack.__name__}")))
                over.set()
                answers = await honest
                assert answers > 3, "an honest client is answered all the while"
                client.half_close()
                assert await client.closed() == "closed"
                await until_left(server)
                memory = server.memory
                print(f"\nround {number}: {answers} honest answers, {memory >> 20} MiB resident")
                if number == 1:
                    before = memory
        assert memory - before < MOST_GROWTH, f"from {before >> 20} to {memory >> 20} MiB"
        assert "INTERNAL_FAULT" not in server.log, "whatever they sent, it was no fault of ours"
