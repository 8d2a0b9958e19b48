"""A real business server on free ports, over a fake inference."""

from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from business_svc.server import Running, serve
from business_svc.settings import Settings, read_settings
from support.fake_inference import FakeInference

KEY = "a-key-that-is-long-enough"
METADATA = (("authorization", f"Bearer {KEY}"),)
HEADERS = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def settings() -> Settings:
    return read_settings(
        api_keys=f"acme:{KEY}",
        grpc_listen="127.0.0.1:0",
        http_listen="127.0.0.1:0",
        max_request_bytes=16_384,
    )


@pytest.fixture
async def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def running(settings: Settings, inference: FakeInference) -> AsyncIterator[Running]:
    async with serve(settings, inference) as server:
        yield server


@pytest.fixture
async def channel(running: Running) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(running.grpc_address) as opened:
        yield opened


@pytest.fixture
async def http(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{running.http_address}", headers=HEADERS, timeout=30) as client:
        yield client
