"""How a server is reached is decided before anything is sent."""

import math
from pathlib import Path

import pytest
from seam_client import AsyncSeam, Seam, Tls
from seam_client.connection import connection, is_local


@pytest.mark.parametrize(
    "target",
    [
        "localhost:50051",
        "LOCALHOST:1",
        "127.0.0.1:1",
        "127.9.9.9:1",
        "[::1]:1",
        "unix:/tmp/s",
        "unix:///tmp/s",
        "unix-abstract:s",
        "dns:localhost:1",
        "dns:///localhost:1",
        "ipv4:127.0.0.1:1,127.0.0.2:1",
        "ipv6:[::1]:1",
    ],
)
def test_this_machine_is_reached_in_plaintext(target: str) -> None:
    assert is_local(target)
    assert connection(target).credentials is None


@pytest.mark.parametrize(
    "target",
    [
        "business:50051",
        "localhost.example.com:1",
        "10.0.0.1:1",
        "[2001:db8::1]:1",
        "dns:///127.evil.example:1",
        "dns://127.0.0.1/business:1",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "xds:///localhost",
    ],
)
def test_any_other_machine_is_reached_with_tls(target: str) -> None:
    assert connection(target).credentials is not None


def test_plaintext_to_another_machine_must_be_said_by_name() -> None:
    assert connection("business:1", plaintext=True).credentials is None


def test_tls_may_be_asked_for_on_this_machine() -> None:
    assert connection("localhost:1", tls=True).credentials is not None


def test_plaintext_and_tls_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude"):
        connection("localhost:1", tls=Tls(), plaintext=True)


def test_a_certificate_wants_its_key() -> None:
    with pytest.raises(ValueError, match="go together"):
        Tls(certificate_file="cert.pem")


def test_a_missing_authority_is_told_when_the_client_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        Seam("localhost:1", tls=Tls(ca_file=tmp_path / "absent.pem"))


@pytest.mark.parametrize("key", ["two words", "newline\n", "clé", "\x00"])
def test_a_key_that_cannot_travel_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as raised:
        connection("localhost:1", api_key=key)
    assert key not in str(raised.value)


def test_the_key_is_in_no_repr() -> None:
    with Seam("localhost:1", api_key="hidden-key") as seam:
        assert "hidden-key" not in repr(seam)
        assert "localhost:1" in repr(seam)
    assert "hidden-key" not in repr(AsyncSeam("localhost:1", api_key="hidden-key"))


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_a_timeout_that_no_call_can_keep_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        connection("localhost:1", timeout=seconds)
    with pytest.raises(ValueError, match="above 0"):
        connection("localhost:1").seconds(seconds)


def test_a_calls_own_timeout_goes_before_the_clients() -> None:
    usual = connection("localhost:1", timeout=5)
    assert (usual.seconds(None), usual.seconds(2), usual.seconds(math.inf)) == (5, 2, None)
    assert connection("localhost:1", timeout=None).seconds(None) is None
    assert connection("localhost:1").seconds(None) == 60


def test_an_empty_target_is_refused() -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        connection("")


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine() -> None:
    assert dict(connection("localhost:1").options)["grpc.enable_http_proxy"] == 0
    assert "grpc.enable_http_proxy" not in dict(connection("business:1").options)
