"""The link over mutual TLS, on the inference server as it is: who is let in, who is believed, what is said otherwise,
and certificates that change while answers run."""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from business_svc.domain.inference import Accepted, Finished, Tokens
from business_svc.link.duplex import DuplexLost
from business_svc.link.grpc_duplex import GrpcConnector, GrpcDuplex
from business_svc.link.pool import Pool
from business_svc.link.session import Session, SessionSettings
from business_svc.link.tls import PeerRefused, TlsFiles
from grpc_health.v1 import health_pb2, health_pb2_grpc
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.server import InferenceServer, serve
from inference_svc.settings import Settings
from inference_svc.wire.tls import RotatingCredentials, ServerFiles, TlsFault
from seam.inference.v1.model_service_pb2 import ListModelsRequest
from seam.inference.v1.model_service_pb2_grpc import ModelServiceStub
from seam_local.certificates import BUSINESS, INFERENCE, Authority, LinkCertificates, write_private
from support.certificates import link_files, link_settings, put
from support.echo import echo_model
from support.link import NO_CONTEXT, asked, quick_settings

PAST = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC))


class Made:
    """An authority, and the files of both sides, which tests may replace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority("this test's")
        write_private(folder / "ca.pem", self.authority.pem)
        self.files = LinkCertificates(
            folder / "ca.pem",
            self.authority.issue("business", BUSINESS).write(folder, "business"),
            self.authority.issue("inference", INFERENCE, "replica.seam", "127.0.0.1").write(folder, "inference"),
        )

    def business(self, *identities: str, authority: Authority | None = None, **options: Any) -> TlsFiles:
        """Of a business with another certificate."""
        pair = (authority or self.authority).issue("other", *identities, **options).write(self.folder, "other")
        return TlsFiles(self.files.ca, *pair, INFERENCE)


@pytest.fixture
def made() -> Iterator[Made]:
    folder = Path(tempfile.mkdtemp(prefix="seam"))
    yield Made(folder)
    shutil.rmtree(folder)


@asynccontextmanager
async def inference(made: Made, **settings: Any) -> AsyncIterator[InferenceServer]:
    def load(spec: ModelSpec, progress: object) -> LoadedModel:
        return echo_model(spec.name, spec.task)

    told = {"listen": "127.0.0.1:0", "embed_model": "", "score_model": "", **link_settings(made.files, "inference")}
    async with asyncio.timeout(30), serve(Settings(**(told | settings)), load=load) as server:
        await server.ready()
        yield server


async def greeted(address: str, files: TlsFiles | None) -> Session:
    duplex = await GrpcConnector(address, tls=files).connect()
    try:
        return await Session.greet(duplex, SessionSettings("test"))
    finally:
        await duplex.aclose()


async def shown_by(address: str, files: TlsFiles) -> bytes:
    """The certificate that a new connection is shown."""
    proof = await replace(files, server_name=INFERENCE).prove(address)
    assert proof.pinned is not None
    return proof.pinned


@pytest.mark.parametrize("server", [INFERENCE, "replica.seam", None], ids=["URI", "DNS name", "address"])
async def test_a_replica_proves_a_uri_a_name_or_its_address(made: Made, server: str | None) -> None:
    async with inference(made) as replica:
        assert (await greeted(replica.address, link_files(made.files, server))).welcome.models[0].name == "chat"


async def test_a_replica_with_another_identity_is_not_believed(made: Made) -> None:
    async with inference(made) as replica:
        for expected in ("spiffe://seam.local/another", "another.seam", "10.0.0.1"):
            with pytest.raises(PeerRefused, match=f"does not prove to be {expected}"):
                await greeted(replica.address, link_files(made.files, expected))


async def test_a_replica_of_another_authority_is_not_believed(made: Made) -> None:
    async with inference(made) as replica:
        stranger = made.folder / "stranger.pem"
        stranger.write_bytes(Authority("stranger").pem)
        with pytest.raises(PeerRefused, match=rf"unable to get local issuer.*{stranger}"):
            await greeted(replica.address, replace(link_files(made.files), ca=stranger))


async def test_an_identity_that_was_not_named_is_refused_in_every_call_and_told_to_both(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    async with inference(made) as replica:
        other = made.business("spiffe://seam.local/intruder", "intruder.seam")
        with pytest.raises(PeerRefused, match=r"does not take calls from spiffe://seam\.local/intruder"):
            await greeted(replica.address, other)
        assert "refused ipv4:127.0.0.1" in caplog.text
        assert "spiffe://seam.local/intruder" in caplog.text
        proof = await other.prove(replica.address)
        options = (("grpc.ssl_target_name_override", proof.name),)
        async with grpc.aio.secure_channel(replica.address, proof.credentials(), options=options) as channel:
            for call in (
                ModelServiceStub(channel).ListModels(ListModelsRequest()),
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
                await watching.read()


async def test_everyone_of_the_authority_is_let_in_where_the_setting_says_so(made: Made) -> None:
    async with inference(made, link_clients=("*",)) as replica:
        assert (await greeted(replica.address, made.business("whoever.seam"))).welcome.replica_id


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("none", "none was shown"),
        ("another authority", f"other.pem of {BUSINESS}"),
        ("expired", f"other.pem of {BUSINESS}, expired at 2020-01-02 00:00 UTC"),
    ],
)
async def test_a_certificate_that_the_replica_does_not_take_is_named(made: Made, which: str, said: str) -> None:
    own = {
        "none": lambda: replace(link_files(made.files), certificate=None, key=None),
        "another authority": lambda: made.business(BUSINESS, authority=Authority("stranger")),
        "expired": lambda: made.business(BUSINESS, valid=PAST),
    }[which]()
    async with inference(made) as replica:
        with pytest.raises(PeerRefused, match=f"does not take this side's certificate .*{said}"):
            await greeted(replica.address, own)


async def test_a_plaintext_client_gets_nowhere_and_a_unix_socket_beside_needs_no_certificate(made: Made) -> None:
    unix = f"unix:{made.folder}/socket"
    async with inference(made, listen=f"127.0.0.1:0,{unix}") as replica:
        with pytest.raises(DuplexLost):
            await greeted(replica.address, None)
        assert (await greeted(unix, link_files(made.files))).welcome.replica_id
        assert (await greeted(unix, None)).welcome.replica_id


async def test_a_replica_without_tls_is_not_talked_to_in_the_clear(made: Made) -> None:
    plain = {"link_ca": None, "link_certificate": None, "link_key": None}
    async with inference(made, **plain) as replica:
        with pytest.raises(DuplexLost):
            await greeted(replica.address, link_files(made.files))


async def test_certificates_rotate_on_both_sides_while_an_answer_runs(made: Made) -> None:
    async with inference(made) as replica:
        connector = GrpcConnector(replica.address, tls=link_files(made.files))
        before = await shown_by(replica.address, link_files(made.files))
        async with (
            Pool([connector], quick_settings()) as pool,
            aclosing(pool.generate(asked("a long answer", 64), NO_CONTEXT)) as events,
        ):
            assert isinstance(await anext(events), Accepted)
            served = made.authority.issue("inference", INFERENCE, "replica.seam")
            put(made.files.inference, served.certificate, served.key)
            mine = made.authority.issue("business", BUSINESS)
            put(made.files.business, mine.certificate, mine.key)
            assert await shown_by(replica.address, link_files(made.files)) == served.certificate != before
            rest = [event async for event in events]
            assert sum(len(event.ids) for event in rest if isinstance(event, Tokens)) == 64
            assert isinstance(rest[-1], Finished)
            assert replica.session_service.session_count == 1  # the one it began with
        assert (await greeted(replica.address, link_files(made.files))).welcome.replica_id


async def test_the_authority_rotates_too(made: Made) -> None:
    """First both authorities are trusted, then the certificates change, then the first authority goes."""
    async with inference(made) as replica:
        second = Authority("second")
        write_private(made.files.ca, made.authority.pem + second.pem)
        for who, identity in ((made.files.inference, INFERENCE), (made.files.business, BUSINESS)):
            pair = second.issue("renewed", identity)
            put(who, pair.certificate, pair.key)
            assert (await greeted(replica.address, link_files(made.files))).welcome.replica_id
        write_private(made.files.ca, second.pem)
        assert (await greeted(replica.address, link_files(made.files))).welcome.replica_id
        with pytest.raises(PeerRefused):
            await greeted(replica.address, made.business(BUSINESS))


async def test_half_a_rotation_leaves_the_certificates_before_in_use(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    async with inference(made) as replica:
        before = await shown_by(replica.address, link_files(made.files))
        renewed = made.authority.issue("inference", INFERENCE)
        key = made.files.inference[1].read_bytes()
        put(made.files.inference, renewed.certificate, key)
        assert await shown_by(replica.address, link_files(made.files)) == before
        assert "do not belong together" in caplog.text
        put(made.files.inference, renewed.certificate, renewed.key)
        assert await shown_by(replica.address, link_files(made.files)) == renewed.certificate


async def test_a_file_that_cannot_be_used_is_named_on_either_side(made: Made) -> None:
    certificate, key = made.files.inference
    server = ServerFiles(certificate, key, made.files.ca)
    garbage, folder = made.folder / "garbage", made.folder / "folder"
    garbage.write_text("not PEM")
    folder.mkdir()
    expired = made.authority.issue("old", INFERENCE, valid=PAST).write(made.folder, "old")
    for files, said in (
        (replace(server, key=made.folder / "missing.key"), "missing.key cannot be read: No such file"),
        (replace(server, key=folder), "folder cannot be read: Is a directory"),
        (replace(server, key=made.files.business[1]), "do not belong together"),
        (replace(server, certificate=garbage), "garbage holds no PEM certificate"),
        (replace(server, client_ca=garbage), "garbage holds no PEM certificate of an authority"),
        (ServerFiles(*expired, made.files.ca), "old.pem expired at 2020-01-02"),
    ):
        with pytest.raises(TlsFault, match=said):
            RotatingCredentials(files)
    client = link_files(made.files)
    for mine, said in (
        (replace(client, ca=made.folder / "missing.pem"), "missing.pem cannot be read: No such file"),
        (replace(client, ca=garbage), "garbage holds no PEM certificate of an authority"),
        (replace(client, key=folder), "folder cannot be read: Is a directory"),
        (replace(client, key=key), "do not belong together"),
    ):
        with pytest.raises(PeerRefused, match=said):
            await GrpcConnector("127.0.0.1:1", tls=mine).connect()


class Tried:
    """A connector that tells of its fifth try."""

    def __init__(self, connector: GrpcConnector) -> None:
        self.address, self.hop = connector.address, connector.hop
        self._connector = connector
        self._count = 0
        self.often = asyncio.Event()

    async def connect(self) -> GrpcDuplex:
        self._count += 1
        if self._count == 5:
            self.often.set()
        return await self._connector.connect()


async def test_a_pool_tells_once_why_a_replica_is_not_believed(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    async with inference(made) as replica:
        wrong = Tried(GrpcConnector(replica.address, tls=link_files(made.files, "another.seam")))
        async with Pool([wrong], quick_settings()):
            await wrong.often.wait()
        told = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
        assert [one.count("does not prove to be another.seam") for one in told] == [1]
