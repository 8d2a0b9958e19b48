"""The pool that the settings describe: replicas that a file or a name tells, over real connections and under load."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from business_svc.link.pool import Pool
from business_svc.replicas import pool_of
from business_svc.settings import Settings, read_settings
from support.duplex import ScriptedReplica, grpc_replica
from support.link import asked, check_whole, read

KEY = "a-key-that-is-long-enough"
STREAMS, TOKENS = 16, 40


def settings(replicas: str, drain_seconds: float = 5.0) -> Settings:
    return read_settings(api_keys=KEY, replicas=replicas, link_plaintext=True, drain_seconds=drain_seconds)


def write(path: Path, *addresses: str) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text("".join(f"{address}\n" for address in ("# the fleet", *addresses)))
    draft.replace(path)


async def until_there(pool: Pool, addresses: set[str]) -> None:
    while pool.addresses != addresses:  # noqa: ASYNC110 - a file that is watched tells nobody that it was
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("grace", [0.0, 5.0], ids=["moved", "finished"])
async def test_answers_are_whole_while_replicas_join_and_leave_a_file(tmp_path: Path, grace: float) -> None:
    replicas = [ScriptedReplica(name) for name in ("first", "second", "third")]
    path = tmp_path / "replicas"
    async with asyncio.timeout(40), AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(grpc_replica(one)) for one in replicas]
        for one in replicas:
            one.step_pause = 0.002
        write(path, addresses[0])
        pool = await stack.enter_async_context(pool_of(settings(f"file://{path}", grace)))
        await pool.ready()
        changed = asyncio.Event()

        async def ask_on(stream: int) -> int:
            """Answers one after another until the last change is through; returns how many."""
            count = 0
            while not changed.is_set() or not count:
                prompt = f"stream {stream}, answer {count}"
                check_whole(await read(pool, asked(prompt, TOKENS)), prompt, TOKENS)
                count += 1
            return count

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask_on(stream)) for stream in range(STREAMS)]
            for there in (addresses[:2], addresses[1:], addresses[2:], addresses):
                write(path, *there)
                await until_there(pool, set(there))
            await pool.ready(3)
            changed.set()
        assert sum(task.result() for task in asking) >= STREAMS
        assert all(one.submitted for one in replicas)


async def test_a_name_and_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    replica = ScriptedReplica()
    path = tmp_path / "replicas"
    async with asyncio.timeout(20), grpc_replica(replica) as address:
        port = address.rpartition(":")[2]
        async with pool_of(settings(f"dns:///127.0.0.1:{port},file://{path}")) as pool:
            assert pool.addresses == {address}
            check_whole(await read(pool, asked("by name")), "by name", 12)
            write(path, "127.0.0.1:1")
            await until_there(pool, {address, "127.0.0.1:1"})
