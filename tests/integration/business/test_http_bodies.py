"""Bodies as they come to the HTTP edge: what is taken for JSON, how much, and for how long one may be on its way."""

import asyncio
import gzip
from typing import Any

import httpx
import pytest
from business_svc.server import Running
from support.fake_inference import FakeInference
from support.http_errors import error_of


async def test_bodies_that_are_not_json_are_told_so(http: httpx.AsyncClient) -> None:
    for content in (b"{", b"", b'{"text": "a"', b"\xff\xfe", b"[1]", b'"x"', b"null"):
        response = await http.post("/predict", content=content, headers={"content-type": "application/json"})
        assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error"), content


async def test_a_body_is_json_whatever_its_header_says(http: httpx.AsyncClient) -> None:
    for told in ("application/x-www-form-urlencoded", "text/plain"):
        response = await http.post("/predict", content=b'{"text": "a"}', headers={"content-type": told})
        assert response.status_code == 200


async def test_a_compressed_body_is_told_that_none_is_taken(http: httpx.AsyncClient, inference: FakeInference) -> None:
    packed = gzip.compress(b'{"text": "a"}')
    response = await http.post("/predict", content=packed, headers={"content-encoding": "gzip"})
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_field", "content-encoding")
    assert "'gzip'" in error["message"]
    assert inference.asked == []
    plain = await http.post("/predict", content=b'{"text": "a"}', headers={"content-encoding": "Identity"})
    assert plain.status_code == 200


async def test_a_body_over_the_limit_is_refused_told_or_not(http: httpx.AsyncClient, inference: FakeInference) -> None:
    async def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 1000

    for content in (b"x" * 20_000, pieces()):
        response = await http.post("/predict", content=content)
        assert (response.status_code, error_of(response)["code"]) == (413, "message_too_large")
    assert inference.asked == []


async def test_a_body_that_is_on_its_way_when_the_server_stops_is_told_so(
    running: Running, inference: FakeInference, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = running.http_address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /predict HTTP/1.1\r\nhost: here\r\nx-api-key: a-key-that-is-long-enough\r\ncontent-length: 13\r\n\r\n{"
    )
    await asyncio.sleep(0.05)
    await running.drain(0.1)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"draining"' in answer
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    assert inference.asked == []


async def test_a_body_that_comes_while_the_server_drains_is_answered(running: Running) -> None:
    host, port = running.http_address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /predict HTTP/1.1\r\nhost: here\r\nx-api-key: a-key-that-is-long-enough\r\ncontent-length: 13\r\n\r\n{"
    )
    await asyncio.sleep(0.05)
    draining = asyncio.create_task(running.drain(10))
    await asyncio.sleep(0.05)
    writer.write(b'"text": "a"}')
    async with asyncio.timeout(5):
        answer = await reader.read()
        await draining
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
