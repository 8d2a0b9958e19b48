"""TLS on both sides of Envoy: what callers see and show, and what Envoy and the business servers show each other."""

import os
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from seam_client import Seam, Tls, Unavailable
from seam_local.certificates import Authority, write_private
from support.certificates import put
from support.edge import HEADERS, KEY, ROOT, Business, Envoy, Workshop

BUSINESS = "business.seam.svc"


@dataclass
class Files:
    folder: Path
    authority: Authority

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def pair(self, name: str, *identities: str) -> tuple[Path, Path]:
        folder = self.folder / name
        folder.mkdir()
        return self.authority.issue(name, *identities).write(folder, name)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path / "tls", Authority("everyone here"))
    made.folder.mkdir()
    write_private(made.ca, made.authority.pem)
    return made


def business_with(own: Workshop, replica: str, files: Files, pair: tuple[Path, Path]) -> Business:
    return own.business(
        replica,
        SEAM_EDGE_CERTIFICATE=str(pair[0]),
        SEAM_EDGE_KEY=str(pair[1]),
        SEAM_EDGE_CLIENT_CA=str(files.ca),
    )


def shown_to_business(files: Files) -> dict[str, Path | str]:
    certificate, key = files.pair("edge-to-business", "edge.seam.svc")
    return {
        "business_ca": files.ca,
        "business_identity": BUSINESS,
        "shown_certificate": certificate,
        "shown_key": key,
    }


def test_both_sides_show_who_they_are(own: Workshop, replica: str, files: Files) -> None:
    business = business_with(own, replica, files, files.pair("business", BUSINESS))
    certificate, key = files.pair("edge", "127.0.0.1")
    options = {"certificate": certificate, "key": key, "callers_ca": files.ca, **shown_to_business(files)}
    envoy = own.envoy(business, **options)
    caller = files.pair("caller", "caller.example")
    with Seam(envoy.edge, api_key=KEY, tls=Tls(files.ca, *caller)) as seam:
        assert seam.models()
        with seam.chat("hello", max_output_tokens=5) as answer:
            assert list(answer)
    with httpx.Client(base_url=f"https://{envoy.edge}", headers=HEADERS, verify=context(files, caller)) as http:
        assert len(http.get("/v1/models").json()["data"]) == 3
        assert http.post("/seam.business.v1.OperationsService/ListModels", json={}).status_code == 200
    with Seam(envoy.edge, api_key=KEY, tls=Tls(files.ca), timeout=5) as seam, pytest.raises(Unavailable):
        seam.models()
    renew(envoy, files, (certificate, key))


def test_the_containers_probe_shows_the_servers_own_certificate(own: Workshop, replica: str, files: Files) -> None:
    certificate, key = files.pair("business", BUSINESS)
    business = business_with(own, replica, files, (certificate, key))
    words = [sys.executable, str(ROOT / "deploy/docker/probe.py"), business.grpc, "liveness"]
    inside = os.environ | {"SEAM_EDGE_CERTIFICATE": str(certificate), "SEAM_EDGE_KEY": str(key)}
    assert subprocess.run(words, env=inside, stdout=subprocess.DEVNULL).returncode == 0
    assert subprocess.run(words, stderr=subprocess.DEVNULL).returncode == 2


def renew(envoy: Envoy, files: Files, edge: tuple[Path, Path]) -> None:
    """A certificate that was replaced is shown to the next caller."""
    renewed = files.authority.issue("edge", "127.0.0.1")
    put(edge, renewed.certificate, renewed.key)
    deadline = time.monotonic() + 30
    while shown_by(envoy, files) != renewed.certificate:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_business_server_that_cannot_prove_its_name_is_given_nothing(
    own: Workshop, replica: str, files: Files
) -> None:
    other = business_with(own, replica, files, files.pair("other", "other.seam.svc"))
    envoy = own.envoy(other, **shown_to_business(files))
    with Seam(envoy.edge, api_key=KEY, timeout=10) as seam, pytest.raises(Unavailable):
        seam.models()


def context(files: Files, caller: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(files.ca))
    if caller is not None:
        made.load_cert_chain(*caller)
    return made


def shown_by(envoy: Envoy, files: Files) -> bytes:
    host, _, port = envoy.edge.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context(files).wrap_socket(plain, server_hostname=host) as secure,
    ):
        certificate = secure.getpeercert(binary_form=True)
    assert certificate is not None
    return ssl.DER_cert_to_PEM_cert(certificate).encode()
