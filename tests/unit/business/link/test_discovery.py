"""Replicas come and go with a file's lines or a name's addresses."""

import asyncio
from pathlib import Path

import pytest
from business_svc.link.discovery import DiscoveryFailed, DnsSource, FileSource, Follower
from business_svc.link.duplex import Connector
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.pool import Pool
from support.duplex import ScriptedReplica
from support.link import asked, check_whole, quick_settings, read


def connector(address: str) -> Connector:
    return InProcessConnector(ScriptedReplica(address).serve, address=address)


async def test_a_file_tells_who_is_there_and_its_failure_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "replicas"
    async with asyncio.timeout(10), Pool([connector("always")], quick_settings()) as pool:
        follower = Follower(pool, FileSource(path), connector)
        await follower.look()
        assert pool.addresses == {"always"}
        path.write_text("# the fleet\n10.0.0.1:7000  # first\n\n10.0.0.2:7000\n")
        await follower.look()
        assert pool.addresses == {"always", "10.0.0.1:7000", "10.0.0.2:7000"}
        path.unlink()
        await follower.look()
        assert len(pool.addresses) == 3
        path.write_text("10.0.0.2:7000\n")
        await follower.look()
        assert pool.addresses == {"always", "10.0.0.2:7000"}
        check_whole(await read(pool, asked("still here")), "still here", 12)


async def test_a_name_gives_all_its_addresses() -> None:
    assert "127.0.0.1:7000" in await DnsSource("localhost", 7000).addresses()
    assert await DnsSource("127.0.0.1", 80).addresses() == {"127.0.0.1:80"}
    assert await DnsSource("::1", 80).addresses() == {"[::1]:80"}


async def test_a_name_that_nobody_knows_is_a_failure_not_an_empty_fleet() -> None:
    with pytest.raises(DiscoveryFailed, match=r"nobody\.invalid"):
        await DnsSource("nobody.invalid", 80).addresses()
