"""Both clients over TLS: the server is checked, the client can be, and plaintext is never a fallback."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from seam_client import Tls, Unavailable
from support.fake_business import FakeBusiness, fake_business

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


def certificate(folder: Path, name: str, signed_by: str | None = None) -> None:
    """NAME.pem and NAME.key for localhost, signed by itself or by an authority made before."""
    made = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem",
    ]  # fmt: skip
    if signed_by:
        made += ["-CA", f"{signed_by}.pem", "-CAkey", f"{signed_by}.key", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(made, cwd=folder, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certificate(folder, "authority")
    certificate(folder, "stranger")
    certificate(folder, "server", signed_by="authority")
    certificate(folder, "client", signed_by="authority")
    return folder


@pytest.fixture(params=["server only", "both sides"])
def business(request: pytest.FixtureRequest, certificates: Path) -> Iterator[FakeBusiness]:
    pair = ((certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes())
    authority = (certificates / "authority.pem").read_bytes()
    mutual = request.param == "both sides"
    credentials = grpc.ssl_server_credentials([pair], authority if mutual else None, mutual)
    with fake_business(credentials=credentials) as running:
        running.target = running.target.replace("127.0.0.1", "localhost")
        yield running


def test_a_server_of_a_known_authority_is_asked(
    connect: Callable[..., Any], business: FakeBusiness, certificates: Path
) -> None:
    known = Tls(certificates / "authority.pem", certificates / "client.pem", certificates / "client.key")
    assert connect(business.target, tls=known).chat("hi").text() == "You said: hi"


def test_a_server_of_a_strange_authority_is_not(
    connect: Callable[..., Any], business: FakeBusiness, certificates: Path
) -> None:
    with pytest.raises(Unavailable, match="localhost"):
        connect(business.target, tls=Tls(certificates / "stranger.pem")).predict("hi")
    assert business.calls == []


def test_a_name_that_is_not_the_servers_is_refused_unless_it_is_said(
    connect: Callable[..., Any], business: FakeBusiness, certificates: Path
) -> None:
    target = business.target.replace("localhost", "127.0.0.1")
    files = (certificates / "authority.pem", certificates / "client.pem", certificates / "client.key")
    with pytest.raises(Unavailable):
        connect(target, tls=Tls(*files)).predict("hi")
    assert connect(target, tls=Tls(*files, server_name="localhost")).predict("hi").text == "You said: hi"


def test_a_plaintext_client_gets_nothing_out_of_a_server_of_tls(
    connect: Callable[..., Any], business: FakeBusiness
) -> None:
    with pytest.raises(Unavailable):
        connect(business.target).predict("hi")
    assert business.calls == []
