"""Replicas come and go with a file's lines or a name's addresses."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from business_svc.link.discovery import (
    Addresses,
    DiscoveryFailed,
    DnsSource,
    FileSource,
    Follower,
    Listed,
    sources_of,
)
from business_svc.link.duplex import Connector
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.pool import Pool
from support.duplex import ScriptedReplica
from support.link import NO_CONTEXT, asked, check_whole, quick_settings, read

TWO = frozenset({"10.0.0.1:7000", "10.0.0.2:7000"})


def connector(address: str, name: str | None = None) -> Connector:
    return InProcessConnector(ScriptedReplica(address).serve, address=address)


async def test_a_file_tells_who_is_there_and_its_failure_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "replicas"
    async with asyncio.timeout(10), Pool([connector("always")], quick_settings()) as pool:
        follower = Follower(pool, [FileSource(path)], connector)
        await follower.look()
        assert pool.addresses == {"always"}
        path.write_text("# the fleet\n10.0.0.1:7000  # first\n\n10.0.0.2:7000\n")
        await follower.look()
        assert pool.addresses == {"always", *TWO}
        for unusable in ("", "10.0.0.1:7000\nnonsense\n", None):
            path.unlink() if unusable is None else path.write_text(unusable)
            await follower.look()
            assert pool.addresses == {"always", *TWO}
        path.write_text("10.0.0.2:7000\n")
        await follower.look()
        assert pool.addresses == {"always", "10.0.0.2:7000"}
        path.write_text("# none\n")
        await follower.look()
        assert pool.addresses == {"always"}
        check_whole(await read(pool, asked("still here")), "still here", 12)


async def test_an_entry_that_cannot_be_read_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "replicas"
    path.write_text("10.0.0.1:7000\n10.0.0.2\n")
    with pytest.raises(DiscoveryFailed, match=r"replicas, line 2: must be host:port.*'10\.0\.0\.2'"):
        await FileSource(path).addresses()


async def test_a_failure_is_told_once_until_it_is_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "replicas"
    async with asyncio.timeout(10), Pool([], quick_settings()) as pool:
        follower = Follower(pool, [FileSource(path)], connector)
        for content in (None, None, "", "", "10.0.0.1:7000", ""):
            if content is not None:
                path.write_text(content)
            await follower.look()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [("is empty" in one, "cannot be read" in one) for one in told] == [
        (False, True),
        (True, False),
        (True, False),
    ]


async def test_a_replica_that_several_sources_name_leaves_with_the_last() -> None:
    answers: dict[str, Addresses] = {"one": [(socket.AF_INET, "10.0.0.1", 7000)], "two": []}

    def named(name: str) -> DnsSource:
        async def resolve(host: str, port: int) -> Addresses:
            return answers[host]

        return DnsSource(name, 7000, resolve=resolve)

    answers["two"] = answers["one"]
    async with asyncio.timeout(10), Pool([], quick_settings()) as pool:
        follower = Follower(pool, [named("one"), named("two"), Listed(["10.0.0.9:1"])], connector)
        for one, two, there in (
            (answers["one"], answers["two"], {"10.0.0.1:7000", "10.0.0.9:1"}),
            ([], answers["two"], {"10.0.0.1:7000", "10.0.0.9:1"}),
            ([], [], {"10.0.0.9:1"}),
        ):
            answers.update(one=one, two=two)
            await follower.look()
            assert pool.addresses == there


async def test_a_name_is_resolved_again_and_all_its_addresses_join_and_leave() -> None:
    answers: Addresses = [(socket.AF_INET, "10.0.0.1", 7000), (socket.AF_INET6, "fd00::2", 7000)]
    failing = False
    asked_for, looked = [], asyncio.Event()

    async def resolve(host: str, port: int) -> Addresses:
        asked_for.append((host, port))
        looked.set()
        if failing:
            raise socket.gaierror("no such name")
        return answers

    names = []

    def told(address: str, name: str | None) -> Connector:
        names.append(name)
        return connector(address)

    async with asyncio.timeout(10), Pool([], quick_settings()) as pool:
        follower = Follower(pool, [DnsSource("fleet.seam", 7000, 0.001, resolve)], told)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(follower.follow())

            async def look_again() -> None:
                for _ in range(2):  # the second look begins when the first has been used
                    looked.clear()
                    await looked.wait()

            await look_again()
            assert pool.addresses == {"10.0.0.1:7000", "[fd00::2]:7000"}
            failing = True
            await look_again()
            assert len(pool.addresses) == 2
            failing, answers = False, [(socket.AF_INET, "10.0.0.3", 7000)]
            await look_again()
            assert pool.addresses == {"10.0.0.3:7000"}
            following.cancel()
    assert set(asked_for) == {("fleet.seam", 7000)}
    assert set(names) == {"fleet.seam"}


async def test_a_name_gives_all_its_addresses() -> None:
    assert "127.0.0.1:7000" in await DnsSource("localhost", 7000).addresses()
    assert await DnsSource("127.0.0.1", 80).addresses() == {"127.0.0.1:80"}
    assert await DnsSource("::1", 80).addresses() == {"[::1]:80"}


async def test_a_name_that_nobody_knows_is_a_failure_not_an_empty_fleet() -> None:
    with pytest.raises(DiscoveryFailed, match=r"nobody\.invalid"):
        await DnsSource("nobody.invalid", 80).addresses()


@pytest.mark.parametrize(
    "entry",
    [
        "nowhere", "host:0", "host:70000", "host:port", ":1", "a b:1", "unix:", "unix:here", "dns:///name",
        "dns:///unix:/x", "dns://name:1", "http://host:1", "::1:80",
    ],
)  # fmt: skip
def test_an_entry_that_means_nothing_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=f"must be .*, was {entry!r}"):
        sources_of(["good:1", entry], 5.0)


async def test_entries_of_every_kind_may_be_had_together(tmp_path: Path) -> None:
    (tmp_path / "replicas").write_text("c:3\n")
    entries = ["a:1", "[::1]:2", "unix:/tmp/x", f"file://{tmp_path}/replicas", "dns:///127.0.0.1:4"]
    found = [await source.addresses() for source in sources_of(entries, 5.0)]
    assert found == [{"a:1", "[::1]:2", "unix:/tmp/x"}, {"c:3"}, {"127.0.0.1:4"}]


async def drained(leave: Callable[[Pool], None], grace_is_enough: bool) -> tuple[ScriptedReplica, ScriptedReplica]:
    """An answer on a replica that leaves in its middle, another one beside it."""
    first, second = ScriptedReplica("first"), ScriptedReplica("second")
    async with asyncio.timeout(10), Pool([], quick_settings()) as pool:
        pool.add(InProcessConnector(first.serve, address="first"))
        await pool.ready()
        async with aclosing(pool.generate(asked("leaving", 40), NO_CONTEXT)) as events:
            seen = [await anext(events), await anext(events)]
            pool.add(InProcessConnector(second.serve, address="second"))
            await pool.ready(2)
            if not grace_is_enough:
                first.by_hand = True  # it goes no further
            leave(pool)
            assert pool.addresses == {"second"}
            check_whole(await read(pool, asked("meanwhile")), "meanwhile", 12)
            seen += [event async for event in events]
        check_whole(seen, "leaving", 40)
    return first, second


async def test_a_replica_that_leaves_ends_what_it_answers_and_gets_nothing_new() -> None:
    first, second = await drained(lambda pool: pool.remove("first", 5.0), grace_is_enough=True)
    assert (len(first.submitted), len(second.submitted)) == (1, 1)
    assert not first.sessions


async def test_what_a_leaving_replica_does_not_end_in_time_goes_elsewhere() -> None:
    first, second = await drained(lambda pool: pool.remove("first", 0.05), grace_is_enough=False)
    assert (len(first.submitted), len(second.submitted)) == (1, 2)


async def test_a_replica_that_comes_back_while_it_leaves_is_used_again() -> None:
    first = ScriptedReplica("first")
    async with asyncio.timeout(10), Pool([], quick_settings()) as pool:
        pool.add(InProcessConnector(first.serve, address="first"))
        await pool.ready()
        async with aclosing(pool.generate(asked("leaving", 40), NO_CONTEXT)) as events:
            seen = [await anext(events)]
            pool.remove("first", 5.0)
            pool.add(InProcessConnector(first.serve, address="first"))
            await pool.ready()
            check_whole(await read(pool, asked("again")), "again", 12)
            seen += [event async for event in events]
        check_whole(seen, "leaving", 40)
    assert len(first.submitted) == 2
