"""A server's connections are closed when its sessions have ended and a moment has passed, or its time is up."""

import asyncio

import pytest
from inference_svc.wire import grpc_server
from inference_svc.wire.grpc_server import stop_gently
from support.serving import serving


class Server:
    """Of gRPC, as far as it is stopped."""

    def __init__(self) -> None:
        self.graces: list[float] = []

    async def stop(self, grace: float) -> None:
        self.graces.append(grace)


async def test_no_connection_is_closed_before_the_last_session_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "LINGER", 0.0)
    server = Server()
    async with serving() as served:
        first, second = served.client(), served.client()
        await first.until(lambda: first.frames and second.frames)
        stopping = asyncio.create_task(stop_gently(server, served.service, 20.0))
        await first.lose()
        await asyncio.sleep(0.05)
        assert server.graces == []
        await second.lose()
        await stopping
    assert len(server.graces) == 1
    assert 0 < server.graces[0] <= 20


@pytest.mark.parametrize("linger", [0.0, 20.0])
async def test_who_does_not_end_in_time_is_not_waited_for(linger: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "LINGER", linger)
    server = Server()
    async with serving() as served:
        client = served.client()
        await client.until(lambda: client.frames)
        await asyncio.wait_for(stop_gently(server, served.service, 0.05), 10)
    assert server.graces == [0.0]


async def test_a_server_without_sessions_lingers_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "LINGER", 0.05)
    server = Server()
    async with serving() as served:
        before = asyncio.get_running_loop().time()
        await stop_gently(server, served.service, 20.0)
        assert asyncio.get_running_loop().time() - before >= 0.05
    assert len(server.graces) == 1
