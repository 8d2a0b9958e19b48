"""Replicas are real processes, and die in every way while 64 streams run on them. No reader may notice more than a
pause; the longest is printed (`-s` shows it)."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
from business_svc.domain.inference import (
    Choice,
    FinishReason,
    GenerateRequest,
    JsonSchema,
    Message,
    OutputFormat,
    Regex,
    ReplicaState,
)
from business_svc.errors import Reason, SeamError
from business_svc.link.grpc_duplex import GrpcConnector
from business_svc.link.pool import Pool, PoolSettings
from support.chaos import Told, Watch, assert_same, mixed_requests, read, read_all, read_all_while
from support.chaos_processes import ReplicaProcess, echo_server, seam_inference
from support.echo import LOST
from support.proxy import Proxy, proxy_to

STREAMS = 64
TOKENS = 150
MIDDLE = STREAMS * 25
HEARTBEAT_TIMEOUT = 2.0

Fault = Callable[[ReplicaProcess], Awaitable[None]]


@asynccontextmanager
async def pool_of(*addresses: str) -> AsyncIterator[Pool]:
    settings = PoolSettings(heartbeat_timeout=HEARTBEAT_TIMEOUT, patience=30.0)
    async with asyncio.timeout(170), Pool([GrpcConnector(one) for one in addresses], settings) as pool:
        await pool.ready(len(addresses))
        yield pool


@asynccontextmanager
async def echo_servers(count: int, *options: str, unix: bool = False) -> AsyncIterator[list[ReplicaProcess]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(echo_server(*options, unix=unix)) for _ in range(count)]


def report(what: str, watch: Watch) -> None:
    print(f"\n{what}: {watch.tokens} tokens to {STREAMS} streams, longest pause {watch.longest_pause * 1000:.0f} ms")


def check_the_undisturbed(requests: list[GenerateRequest], answers: list[Told]) -> None:
    """The comparison is worth something: all kinds of end are among them, and forms that an answer was held to."""
    assert {one.reason for one in answers} >= {FinishReason.LENGTH, FinishReason.STOP_STRING, FinishReason.STOP}
    for request, one in zip(requests, answers, strict=True):
        if one.reason is FinishReason.STOP:
            check_form(request.format, one.text)
        assert one.output_tokens == len(one.ids)
        assert not one.stop_string or one.stop_string not in one.text


def check_form(form: OutputFormat | None, text: str) -> None:
    match form:
        case Regex(pattern):
            assert re.fullmatch(pattern, text)
        case JsonSchema():
            assert len(json.loads(text)) == 9
        case Choice(texts):
            assert text in texts


async def check_idle(*replicas: ReplicaProcess) -> None:
    for replica in replicas:
        state = await replica.idle()
        assert (state["open_slots"], state["live_requests"], state["misuse"]) == (0, 0, [])


async def killed(replica: ReplicaProcess) -> None:
    replica.kill()
    await replica.ended()


async def stopped(replica: ReplicaProcess) -> None:
    replica.stop()


async def stopped_for_a_moment(replica: ReplicaProcess) -> None:
    """Long enough to be taken for dead, and back while its streams go on elsewhere."""
    replica.stop()
    await asyncio.sleep(HEARTBEAT_TIMEOUT + 0.5)
    replica.go_on()


async def told_to_leave(replica: ReplicaProcess) -> None:
    replica.leave()
    assert await replica.ended() == 0


@pytest.mark.parametrize("fault", [killed, stopped, stopped_for_a_moment, told_to_leave], ids=lambda one: one.__name__)
async def test_all_streams_end_as_if_nothing_had_happened(fault: Fault) -> None:
    requests = mixed_requests(STREAMS, TOKENS)
    async with echo_servers(2) as (victim, other), pool_of(victim.address, other.address) as pool:
        undisturbed = await read_all(pool, requests)
        check_the_undisturbed(requests, undisturbed)
        disturbed, watch = await read_all_while(pool, requests, lambda: fault(victim), after_tokens=MIDDLE)
        report(fault.__name__, watch)
        assert_same(disturbed, undisturbed)
        await check_idle(other)
        if fault in (stopped, stopped_for_a_moment):
            victim.go_on()
            await pool.ready(2)
            await check_idle(victim)
            assert_same(await read_all(pool, requests), undisturbed)


async def test_a_cable_that_is_cut_and_mended_is_only_a_pause() -> None:
    requests = mixed_requests(STREAMS, TOKENS)
    async with AsyncExitStack() as stack:
        victim, other = await stack.enter_async_context(echo_servers(2))
        cable = await stack.enter_async_context(proxy_to(victim.address))
        async with pool_of(cable.address, other.address) as pool:
            undisturbed = await read_all(pool, requests)
            disturbed, watch = await read_all_while(pool, requests, lambda: _cut(cable), after_tokens=MIDDLE)
            report("cut", watch)
            assert_same(disturbed, undisturbed)
            assert {one.address: one.state for one in pool.replicas()}[cable.address] is ReplicaState.CONNECTING
            cable.heal()
            await pool.ready(2)
            await check_idle(victim, other)
            assert_same(await read_all(pool, requests), undisturbed)
            disturbed, watch = await read_all_while(pool, requests, lambda: _sever(cable), after_tokens=MIDDLE)
            report("severed", watch)
            assert_same(disturbed, undisturbed)
            await check_idle(victim, other)


async def _cut(cable: Proxy) -> None:
    cable.silence()


async def _sever(cable: Proxy) -> None:
    cable.sever()


@pytest.mark.slow
async def test_all_replicas_are_restarted_one_by_one_under_load_and_no_request_is_lost() -> None:
    requests = mixed_requests(STREAMS, TOKENS)
    async with echo_servers(2, unix=True) as replicas, pool_of(*(one.address for one in replicas)) as pool:
        undisturbed = await read_all(pool, requests)
        watch = Watch(mark=MIDDLE)
        done = asyncio.Event()

        async def lane(n: int) -> int:
            """One client that asks the same again and again."""
            rounds = 0
            while not done.is_set():
                assert await read(pool, requests[n], watch) == undisturbed[n], f"stream {n}, round {rounds}"
                rounds += 1
            return rounds

        async with asyncio.TaskGroup() as group:
            lanes = [group.create_task(lane(n)) for n in range(STREAMS)]
            await watch.reached.wait()
            ids = {one.replica_id for one in pool.replicas()}
            for replica in replicas:
                replica.leave()
                assert await replica.ended() == 0
                await replica.start()
                await pool.ready(2)
            done.set()
        report("rolling restart", watch)
        assert not ids & {one.replica_id for one in pool.replicas()}, "every one of them is a new process"
        assert all(task.result() >= 1 for task in lanes)
        await check_idle(*replicas)


async def test_a_request_that_kills_two_replicas_is_not_given_a_third() -> None:
    async with echo_servers(3) as replicas, pool_of(*(one.address for one in replicas)) as pool:
        good, deadly = mixed_requests(2, 20)
        deadly = _with_text(deadly, "mind the step " + chr(LOST))
        wanted = await read(pool, good)
        with pytest.raises(SeamError) as refusal:
            await read(pool, deadly)
        assert refusal.value.reason is Reason.POISON_REQUEST
        assert await read(pool, good) == wanted
        await _until(lambda: sum(one.process.returncode is not None for one in replicas) == 2)
        assert sorted(one.process.returncode or 0 for one in replicas) == [0, 1, 1]
        assert [one for one in replicas if one.process.returncode is None]


def _with_text(request: GenerateRequest, text: str) -> GenerateRequest:
    return replace(request, messages=(Message("user", text),))


async def _until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - a process's end has no event here
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_real_model_s_streams_survive_a_stop_a_leave_and_a_kill() -> None:
    """Three replicas of the embedded chat model: one is stopped and comes back, one leaves, one of the last two is
    killed. Sampling with top-p and penalties goes on from the very position."""
    requests = mixed_requests(STREAMS, 60, stop_strings=("\n", ". ", "the", "?"))
    async with AsyncExitStack() as stack:
        starting = [stack.enter_async_context(seam_inference()) for _ in range(3)]
        first, second, third = await asyncio.gather(*starting)
        async with pool_of(first.address, second.address, third.address) as pool:
            undisturbed = await read_all(pool, requests)
            check_the_undisturbed(requests, undisturbed)
            faults: list[tuple[ReplicaProcess, Fault]] = [
                (first, stopped_for_a_moment),
                (second, told_to_leave),
                (third, killed),
            ]
            for victim, fault in faults:
                disturbed, watch = await read_all_while(pool, requests, lambda: fault(victim), after_tokens=STREAMS * 8)  # noqa: B023
                report(f"tiny-chat, {fault.__name__}", watch)
                assert_same(disturbed, undisturbed)
                if fault is stopped_for_a_moment:
                    await pool.ready(3)
