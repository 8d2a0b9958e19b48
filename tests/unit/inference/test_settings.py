"""The environment, read once."""

from pathlib import Path

import pytest
from inference_svc.requests import Task
from inference_svc.settings import SettingsError, default_cache_folder, read_settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    import os

    for name in [name for name in os.environ if name.startswith("SEAM_")]:
        monkeypatch.delenv(name)


def test_defaults_serve_three_embedded_models():
    specs = read_settings().model_specs()
    assert [(spec.name, spec.task, spec.source) for spec in specs] == [
        ("chat", Task.GENERATE, "embedded:tiny-chat"),
        ("embed", Task.EMBED, "embedded:minilm"),
        ("score", Task.SCORE, "embedded:tiny-score"),
    ]


def test_an_empty_source_is_not_served(monkeypatch):
    monkeypatch.setenv("SEAM_CHAT_MODEL", "")
    assert [spec.name for spec in read_settings().model_specs()] == ["embed", "score"]


def test_a_models_limits_reach_its_spec(monkeypatch):
    monkeypatch.setenv("SEAM_CHAT_DEVICE", "cuda:1")
    monkeypatch.setenv("SEAM_CHAT_DTYPE", "bfloat16")
    monkeypatch.setenv("SEAM_CHAT_SLOT_COUNT", "7")
    monkeypatch.setenv("SEAM_CHAT_CACHE_MEMORY_SHARE", "0.5")
    monkeypatch.setenv("SEAM_EMBED_STEP_TOKEN_BUDGET", "512")
    chat, embed, _ = read_settings().model_specs()
    assert chat.cache_memory_share == 0.5
    assert (chat.device, chat.dtype, chat.slot_count, embed.step_token_budget) == ("cuda:1", "bfloat16", 7, 512)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SEAM_INFERENCE_LISTEN", "nowhere"),
        ("SEAM_INFERENCE_LISTEN", "127.0.0.1:70000"),
        ("SEAM_INFERENCE_LISTEN", "127.0.0.1:0,unix:"),
        ("SEAM_CHAT_DEVICE", "tpu"),
        ("SEAM_EMBED_DTYPE", "int3"),
        ("SEAM_CHAT_SLOT_COUNT", "0"),
        ("SEAM_CHAT_CACHE_MEMORY_SHARE", "1.5"),
        ("SEAM_HEARTBEAT_SECONDS", "nan"),
        ("SEAM_MAX_MESSAGE_BYTES", "12"),
        ("SEAM_TORCH_THREADS", "many"),
    ],
)
def test_a_bad_variable_is_named_with_what_was_wrong(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"{variable}: .*{value[-5:]}"):
        read_settings()


NOTHING = {"chat_model": "", "embed_model": " ", "score_model": ""}


def test_serving_nothing_is_an_error_where_nothing_can_be_loaded_later():
    assert read_settings(**NOTHING).model_specs() == ()
    with pytest.raises(SettingsError, match="SEAM_CHAT_MODEL"):
        read_settings(**NOTHING, allow_model_control=False)


@pytest.mark.parametrize(
    ("listen", "allowed", "expected"),
    [
        ("127.0.0.1:0", None, True),
        ("localhost:0,unix:/tmp/seam,[::1]:0", None, True),
        ("", None, True),
        ("0.0.0.0:0", None, False),
        ("127.0.0.1:0,10.0.0.1:0", None, False),
        ("inference.example:0", None, False),
        ("0.0.0.0:0", True, True),
        ("127.0.0.1:0", False, False),
    ],
)
def test_models_may_be_changed_by_whoever_is_on_this_machine_unless_told_otherwise(listen, allowed, expected):
    assert read_settings(listen=listen, allow_model_control=allowed).models_may_change is expected


def test_addresses_may_be_several_or_none(monkeypatch):
    monkeypatch.setenv("SEAM_INFERENCE_LISTEN", "127.0.0.1:0, unix:/tmp/seam")
    assert read_settings().addresses == ("127.0.0.1:0", "unix:/tmp/seam")
    assert read_settings(listen="").addresses == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"link_key": "k"}, "SEAM_LINK_CA, SEAM_LINK_CERTIFICATE and SEAM_LINK_KEY"),
        ({"link_ca": "a", "link_certificate": "c", "link_key": "k"}, "SEAM_LINK_CLIENTS: must name"),
        (
            {"link_ca": "a", "link_certificate": "c", "link_key": "k", "link_clients": "b", "link_plaintext": True},
            "SEAM_LINK_PLAINTEXT: cannot",
        ),
    ],
)
def test_half_of_what_tls_needs_is_an_error(given, said):
    with pytest.raises(SettingsError, match=f"^{said}"):
        read_settings(**given)


def test_a_network_gets_plaintext_only_where_that_is_asked_for():
    with pytest.raises(SettingsError, match=r"^SEAM_INFERENCE_LISTEN: 127\.0\.0\.1:0 needs.*SEAM_LINK_PLAINTEXT=true"):
        read_settings(listen="127.0.0.1:0,unix:/tmp/x").check_link()
    read_settings(listen="unix:/tmp/x").check_link()
    read_settings(listen="").check_link()
    read_settings(listen="127.0.0.1:0", link_plaintext=True).check_link()
    whole = read_settings(link_ca="a", link_certificate="c", link_key="k", link_clients="spiffe://s/b, b.seam")
    whole.check_link()
    assert whole.link_clients == ("spiffe://s/b", "b.seam")


def test_a_relative_cache_home_counts_as_unset():
    assert default_cache_folder("/var/cache") == Path("/var/cache/seam")
    assert default_cache_folder("somewhere") == Path.home() / ".cache/seam"
