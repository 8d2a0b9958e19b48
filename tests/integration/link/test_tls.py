"""Mutual TLS: both sides prove who they are; certificates are read again at every connect."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from business_svc.link.duplex import DuplexLost
from business_svc.link.grpc_duplex import GrpcConnector, TlsFiles
from business_svc.link.pool import Pool
from business_svc.link.session import Session, SessionSettings
from support.duplex import ScriptedReplica, grpc_replica
from support.link import asked, check_whole, quick_settings, read


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> None:
    openssl(
        folder,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.pem",
    )


def certificate(folder: Path, signer: str, name: str, identity: str) -> None:
    openssl(
        folder,
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        f"/CN={name}",
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.csr",
    )
    (folder / "ext").write_text(f"subjectAltName=DNS:{identity}\n")
    openssl(
        folder,
        "x509",
        "-req",
        "-in",
        f"{name}.csr",
        "-CA",
        f"{signer}.pem",
        "-CAkey",
        f"{signer}.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "ext",
        "-out",
        f"{name}.pem",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    authority(made, "ca")
    authority(made, "stranger")
    certificate(made, "ca", "replica", "replica.seam")
    certificate(made, "ca", "business", "business.seam")
    certificate(made, "stranger", "impostor", "business.seam")
    return made


def files(folder: Path, who: str = "business", identity: str = "replica.seam") -> TlsFiles:
    return TlsFiles(folder / "ca.pem", folder / f"{who}.pem", folder / f"{who}.key", identity)


@asynccontextmanager
async def secure_replica(folder: Path, replica: ScriptedReplica) -> AsyncIterator[str]:
    pair = ((folder / "replica.key").read_bytes(), (folder / "replica.pem").read_bytes())
    trusted = (folder / "ca.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], trusted, require_client_auth=True)
    async with asyncio.timeout(20), grpc_replica(replica, credentials=credentials) as address:
        yield address


async def greeted(connector: GrpcConnector) -> Session:
    duplex = await connector.connect()
    try:
        return await Session.greet(duplex, SessionSettings("test"))
    finally:
        await duplex.aclose()


async def test_answers_come_over_mutual_tls(folder: Path) -> None:
    async with (
        secure_replica(folder, ScriptedReplica()) as address,
        Pool([GrpcConnector(address, tls=files(folder))], quick_settings()) as pool,
    ):
        check_whole(await read(pool, asked("secret")), "secret", 12)


async def test_neither_side_talks_to_one_that_cannot_prove_who_it_is(folder: Path) -> None:
    async with secure_replica(folder, ScriptedReplica()) as address:
        for wrong in (
            files(folder, who="impostor"),
            files(folder, identity="another.seam"),
            replace(files(folder), certificate=None, key=None),
            replace(files(folder), ca=folder / "stranger.pem"),
            replace(files(folder), ca=folder / "missing.pem"),
            None,
        ):
            with pytest.raises(DuplexLost):
                await greeted(GrpcConnector(address, tls=wrong))


async def test_a_rotated_certificate_is_used_at_the_next_connect(folder: Path, tmp_path: Path) -> None:
    def put(who: str) -> None:
        for kind in ("pem", "key"):
            (tmp_path / f"mine.{kind}").write_bytes((folder / f"{who}.{kind}").read_bytes())

    put("impostor")
    mine = TlsFiles(folder / "ca.pem", tmp_path / "mine.pem", tmp_path / "mine.key", "replica.seam")
    async with secure_replica(folder, ScriptedReplica()) as address:
        connector = GrpcConnector(address, tls=mine)
        with pytest.raises(DuplexLost):
            await greeted(connector)
        put("business")
        assert (await greeted(connector)).welcome.replica_id == "replica"
