import hashlib
import os

import pytest
from business_svc.domain.access import KeyRing
from business_svc.settings import SettingsError, host_and_port, read_settings

SECRET = "a-key-that-is-long-enough"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SEAM_"):
            monkeypatch.delenv(name)


def test_keys_come_plain_named_or_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = hashlib.sha256(b"hashed-key-hashed-key").hexdigest()
    monkeypatch.setenv("SEAM_API_KEYS", f" {SECRET} , acme:{SECRET}2 ,beta:sha256={hashed},")
    ring = KeyRing(read_settings().api_keys)
    assert ring.identify(SECRET).tenant == "default"
    assert ring.identify(SECRET + "2").tenant == "acme"
    assert ring.identify("hashed-key-hashed-key").tenant == "beta"


def test_everything_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "API_KEYS": SECRET,
        "REPLICAS": "a:1, b:2",
        "GRPC_LISTEN": "unix:/tmp/x",
        "HTTP_LISTEN": "[::1]:0",
        "PREDICT_TEMPLATE": "Q {text}",
        "SYSTEM_PROMPT": "be kind",
        "DEFAULT_MAX_OUTPUT_TOKENS": "7",
        "MAX_REQUEST_BYTES": "2048",
        "MAX_REQUEST_SECONDS": "1.5",
        "DRAIN_SECONDS": "0",
    }.items():
        monkeypatch.setenv(f"SEAM_{name}", value)
    settings = read_settings()
    assert settings.replicas == ("a:1", "b:2")
    assert (settings.grpc_listen, settings.http_listen) == ("unix:/tmp/x", "[::1]:0")
    assert (settings.predict_template, settings.system_prompt) == ("Q {text}", "be kind")
    assert (settings.default_max_output_tokens, settings.max_request_bytes) == (7, 2048)
    assert (settings.max_request_seconds, settings.drain_seconds) == (1.5, 0.0)


def test_overrides_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAM_API_KEYS", SECRET)
    monkeypatch.setenv("SEAM_GRPC_LISTEN", "a:1")
    assert read_settings(grpc_listen="b:2").grpc_listen == "b:2"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("API_KEYS", "", "at least one"),
        ("API_KEYS", " , ", "at least one"),
        ("API_KEYS", "short", "16 characters"),
        ("API_KEYS", f":{SECRET}", "empty name"),
        ("API_KEYS", "acme:sha256=abc", "64 lower-case"),
        ("REPLICAS", "a:1,nowhere", "was 'nowhere'"),
        ("REPLICAS", "dns://a:1", "was 'dns://a:1'"),
        ("REPLICAS_REFRESH_SECONDS", "0", "greater than 0"),
        ("GRPC_LISTEN", "nowhere", "host:port"),
        ("HTTP_LISTEN", "host:99999", "host:port"),
        ("PREDICT_TEMPLATE", "no place", "exactly once"),
        ("DEFAULT_MAX_OUTPUT_TOKENS", "0", "greater than or equal to 1"),
        ("MAX_REQUEST_BYTES", "many", "integer"),
        ("MAX_REQUEST_SECONDS", "nan", "finite number"),
        ("DRAIN_SECONDS", "-1", "greater than or equal to 0"),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv("SEAM_API_KEYS", SECRET)
    monkeypatch.setenv(f"SEAM_{name}", value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert str(caught.value).startswith(f"SEAM_{name}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LINK_CA": "ca"}, "SEAM_LINK_CA, SEAM_LINK_CERTIFICATE and SEAM_LINK_KEY"),
        (
            {"LINK_CA": "ca", "LINK_CERTIFICATE": "c", "LINK_KEY": "k", "LINK_PLAINTEXT": "1"},
            "SEAM_LINK_PLAINTEXT: cannot",
        ),
        ({"EDGE_CERTIFICATE": "c"}, "SEAM_EDGE_CERTIFICATE and SEAM_EDGE_KEY"),
        ({"EDGE_CLIENT_CA": "c"}, "SEAM_EDGE_CLIENT_CA: needs"),
    ],
)
def test_half_of_what_tls_needs_is_an_error(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    monkeypatch.setenv("SEAM_API_KEYS", SECRET)
    for name, value in variables.items():
        monkeypatch.setenv(f"SEAM_{name}", value)
    with pytest.raises(SettingsError, match=f"^{said}"):
        read_settings()


def test_replicas_on_a_network_are_spoken_to_in_the_clear_only_where_that_is_asked_for() -> None:
    with pytest.raises(SettingsError, match=r"^SEAM_REPLICAS: a:1 needs SEAM_LINK_CA.*SEAM_LINK_PLAINTEXT=true"):
        read_settings(api_keys=SECRET, replicas="a:1,unix:/tmp/x").check_link()
    read_settings(api_keys=SECRET, replicas="unix:/tmp/x").check_link()
    read_settings(api_keys=SECRET, replicas="a:1", link_plaintext=True).check_link()
    read_settings(api_keys=SECRET, replicas="a:1", link_ca="a", link_certificate="b", link_key="c").check_link()


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAM_API_KEYS", f"{SECRET},tooshortsecret")
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert "tooshortsecret" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(read_settings(api_keys=SECRET))


def test_settings_do_not_change() -> None:
    settings = read_settings(api_keys=SECRET)
    with pytest.raises(ValueError, match="frozen"):
        settings.grpc_listen = "x:1"  # type: ignore[misc]


def test_addresses_have_a_host_and_a_port() -> None:
    assert host_and_port("127.0.0.1:80") == ("127.0.0.1", 80)
    assert host_and_port("[::1]:0") == ("::1", 0)
