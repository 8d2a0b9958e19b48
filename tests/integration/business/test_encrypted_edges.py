"""Both edges over TLS: the certificate that callers see, the one that they may have to show, and its rotation."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from business_svc.edge_tls import EdgeFiles, RotatingTls, TlsFault
from business_svc.server import Running, serve
from business_svc.settings import read_settings
from seam_client import AsyncSeam, Tls, Unavailable
from seam_local.certificates import Authority, Pair, write_private
from support.certificates import put
from support.fake_inference import FakeInference

KEY = "a-key-that-is-long-enough"


@dataclass
class Made:
    folder: Path
    authority: Authority
    files: tuple[Path, Path]

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def client(self) -> tuple[Path, Path]:
        return self.authority.issue("caller", "caller.example").write(self.folder, "caller")

    def server(self) -> Pair:
        return self.authority.issue("edge", "127.0.0.1", "localhost")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    authority = Authority("callers know")
    write_private(tmp_path / "ca.pem", authority.pem)
    return Made(tmp_path, authority, authority.issue("edge", "127.0.0.1", "localhost").write(tmp_path, "edge"))


@asynccontextmanager
async def edges(made: Made, *, mutual: bool) -> AsyncIterator[Running]:
    settings = read_settings(
        api_keys=KEY,
        grpc_listen="127.0.0.1:0",
        http_listen="127.0.0.1:0",
        edge_certificate=made.files[0],
        edge_key=made.files[1],
        edge_client_ca=made.ca if mutual else None,
    )
    async with asyncio.timeout(30), serve(settings, FakeInference()) as running:
        yield running


def context(made: Made, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    made_context = ssl.create_default_context(cafile=str(made.ca))
    if client is not None:
        made_context.load_cert_chain(*client)
    return made_context


async def healthy(running: Running, verify: ssl.SSLContext) -> bool:
    async with httpx.AsyncClient(base_url=f"https://{running.http_address}", verify=verify, timeout=10) as http:
        return (await http.get("/healthz")).status_code == 200


async def shown_by(address: str, verify: ssl.SSLContext) -> bytes:
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=verify)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(certificate).encode()


async def test_both_edges_show_their_certificate_and_answer(made: Made) -> None:
    async with edges(made, mutual=False) as running:
        assert await healthy(running, context(made))
        async with AsyncSeam(running.grpc_address, api_key=KEY, tls=Tls(made.ca)) as seam:
            assert await seam.models()


async def test_nothing_is_answered_in_the_clear(made: Made) -> None:
    async with edges(made, mutual=False) as running:
        async with AsyncSeam(running.grpc_address, api_key=KEY, timeout=2) as seam:
            with pytest.raises(Unavailable):
                await seam.models()
        with pytest.raises(httpx.HTTPError):
            async with httpx.AsyncClient(base_url=f"http://{running.http_address}") as http:
                await http.get("/healthz")


async def test_callers_show_a_certificate_where_the_setting_says_so(made: Made) -> None:
    own = made.client()
    async with edges(made, mutual=True) as running:
        assert await healthy(running, context(made, own))
        with pytest.raises(httpx.HTTPError):
            await healthy(running, context(made))
        async with AsyncSeam(running.grpc_address, api_key=KEY, tls=Tls(made.ca, *own)) as seam:
            assert await seam.models()
        async with AsyncSeam(running.grpc_address, api_key=KEY, tls=Tls(made.ca), timeout=2) as seam:
            with pytest.raises(Unavailable):
                await seam.models()


async def test_a_rotated_certificate_is_shown_by_both_edges_and_standing_connections_go_on(made: Made) -> None:
    async with edges(made, mutual=False) as running:
        verify = context(made)
        async with (
            AsyncSeam(running.grpc_address, api_key=KEY, tls=Tls(made.ca)) as seam,
            httpx.AsyncClient(base_url=f"https://{running.http_address}", verify=verify, timeout=10) as http,
        ):
            assert await seam.models()
            assert (await http.get("/healthz")).status_code == 200
            renewed = made.server()
            put(made.files, renewed.certificate, renewed.key)
            grpc_verify = context(made)
            grpc_verify.set_alpn_protocols(["h2"])
            assert await shown_by(running.http_address, verify) == renewed.certificate
            assert await shown_by(running.grpc_address, grpc_verify) == renewed.certificate
            assert await seam.models()
            assert (await http.get("/healthz")).status_code == 200


async def test_half_a_rotation_is_told_and_the_certificate_before_stays(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    async with edges(made, mutual=False) as running:
        before = await shown_by(running.http_address, context(made))
        put(made.files, made.server().certificate, made.files[1].read_bytes())
        assert await shown_by(running.http_address, context(made)) == before
        assert "do not belong together" in caplog.text


def test_a_file_that_cannot_be_used_is_named(made: Made) -> None:
    certificate, key = made.files
    garbage = made.folder / "garbage"
    garbage.write_text("not PEM")
    other = made.server().write(made.folder, "other")[1]
    for files, said in (
        (EdgeFiles(certificate, made.folder / "missing.key"), r"missing\.key cannot be read"),
        (EdgeFiles(garbage, key), "garbage holds no PEM certificate"),
        (EdgeFiles(certificate, key, garbage), "garbage holds no PEM certificate"),
        (EdgeFiles(certificate, other), "do not belong together"),
        (EdgeFiles(certificate, garbage), "garbage cannot be used"),
    ):
        with pytest.raises(TlsFault, match=said):
            RotatingTls(files)
