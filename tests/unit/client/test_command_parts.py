"""Which server the command asks, what it says when that fails, and how answers look."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from seam_client import (
    Cancelled,
    DeadlineExceeded,
    Embedding,
    Embeddings,
    FieldViolation,
    Finished,
    FinishReason,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    NotImplementedBySeam,
    Overloaded,
    SeamError,
    ServerError,
    Timings,
    Unavailable,
    Usage,
)
from seam_client.command import failing, scripting, showing
from seam_client.command.pointing import Flags, Pointed, UsageError, pointed


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    file = tmp_path / "ready.json"
    file.write_text(json.dumps({"grpc": "127.0.0.1:7", "http": "x", "api_key": "ready-key"}))
    return file


def test_without_a_word_this_machines_default_port_is_asked() -> None:
    assert pointed(Flags(), {}) == Pointed("localhost:50051", None)


def test_the_environment_points_and_a_flag_goes_before_it() -> None:
    environment = {"SEAM_TARGET": "e:1", "SEAM_API_KEY": "ek"}
    assert pointed(Flags(), environment) == Pointed("e:1", "ek")
    assert pointed(Flags(target="f:1", api_key="fk"), environment) == Pointed("f:1", "fk")


def test_a_ready_file_gives_target_and_key(ready: Path) -> None:
    assert pointed(Flags(ready_file=ready), {"SEAM_TARGET": "e:1", "SEAM_API_KEY": "ek"}).api_key == "ready-key"
    assert pointed(Flags(), {"SEAM_READY_FILE": str(ready)}) == Pointed("127.0.0.1:7", "ready-key")
    assert pointed(Flags(ready_file=ready, api_key="fk"), {}) == Pointed("127.0.0.1:7", "fk")


def test_the_key_of_a_ready_file_never_goes_to_another_server(ready: Path) -> None:
    assert pointed(Flags(target="f:1", ready_file=ready), {}) == Pointed("f:1", None)
    assert pointed(Flags(), {"SEAM_TARGET": "e:1", "SEAM_READY_FILE": str(ready)}) == Pointed("e:1", None)


@pytest.mark.parametrize("content", ["", "[]", '{"http": "x"}', '{"grpc": 3}'])
def test_a_ready_file_that_names_no_server_is_a_usage_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"bad\.json"):
        pointed(Flags(ready_file=file), {})


def test_a_missing_ready_file_asks_whether_the_server_is_up(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is the server up"):
        pointed(Flags(ready_file=tmp_path / "none"), {})


def test_flags_after_the_subcommand_win_and_silence_leaves_the_earlier_ones() -> None:
    earlier = Flags(target="a", json=True, timeout=5)
    assert Flags(target="b").over(earlier) == Flags(target="b", json=True, timeout=5)
    assert Flags(target="b").over(None) == Flags(target="b")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InvalidRequest, 3),
        (NotFound, 3),
        (NotImplementedBySeam, 3),
        (NotAuthenticated, 4),
        (Unavailable, 5),
        (DeadlineExceeded, 6),
        (Overloaded, 7),
        (ServerError, 1),
        (Cancelled, 1),
    ],
)
def test_scripts_tell_failures_by_exit_code(kind: type[SeamError], code: int) -> None:
    assert failing.exit_code(kind("C", "", "m")) == code
    assert f"{code} " in failing.HELP


def test_a_failure_is_one_line_with_field_limit_and_what_to_do() -> None:
    violation = FieldViolation("texts[2]", "300 tokens,\nthe model takes 256")
    line = failing.line(InvalidRequest("INVALID_ARGUMENT", "INPUT_TOO_LONG", "a text\nis too long", (violation,)))
    assert line.startswith("INPUT_TOO_LONG: a text is too long (texts[2]: 300 tokens, the model takes 256) -> ")
    assert "\n" not in line


def test_a_failed_connection_is_told_by_its_two_ends() -> None:
    error = Unavailable("UNAVAILABLE", "", "no answer from a server at h:1: failed: last: ipv4:1.2.3.4:1: refused")
    assert failing.line(error).startswith("UNAVAILABLE: no answer from a server at h:1: refused -> ")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (Overloaded("RESOURCE_EXHAUSTED", "QUEUE_FULL", "full", (), 0.25), "try again in 0.25 s"),
        (Unavailable("UNAVAILABLE", "NO_REPLICA", "none"), "try again later"),
        (Unavailable("UNAVAILABLE", "", "no answer from h:1"), "seam-up"),
        (Unavailable("UNAVAILABLE", "", "no answer from h:1 (TLS)"), "--plaintext"),
        (NotAuthenticated("UNAUTHENTICATED", "API_KEY_MISSING", "m"), "SEAM_API_KEY"),
        (NotFound("NOT_FOUND", "MODEL_NOT_FOUND", "m"), "seam models"),
        (DeadlineExceeded("DEADLINE_EXCEEDED", "", "m"), "--timeout"),
    ],
)
def test_a_failure_says_what_to_do(error: SeamError, hint: str) -> None:
    assert hint in failing.line(error)


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    assert showing.harmless("a\x1b[31m\r\x07b\x9bc\x7f\n\td é 🙂") == "a␛[31m␍␇b\ufffdc␡\n\td é 🙂"


def test_markup_in_a_text_is_shown_and_not_obeyed() -> None:
    console = Console(width=100, force_terminal=False, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    answer = Embeddings((Embedding((1.0,) * 8, 3, True),), "embed", Usage(3, 0, 0), Timings(0, 0, 0, 0))
    with console.file:
        console.print(showing.embeddings_table(["[red]x[/red] \x1b[2J"], answer))
    shown = console.export_text()
    assert "[red]x[/red] ␛[2J" in shown
    assert "+1.0000 +1.0000 +1.0000 +1.0000 …" in shown
    assert "3 (cut)" in shown


def test_the_footer_says_where_the_time_went_and_the_pace_between_tokens() -> None:
    line = showing.footer(Usage(7, 11, 2), Timings(0.0005, 0.0203, 0.5, 0.53))
    assert line == (
        "7 tokens in (2 cached), 11 out · queue 500 µs · prefill 20.3 ms · decode 500 ms · total 530 ms · 20.0 tokens/s"
    )
    assert showing.footer(Usage(7, 0, 0), Timings(0.001, 0.02, 0, 0)) == "7 tokens in · queue 1 ms · prefill 20 ms"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 µs"), (0.0123, "12.3 ms"), (0.9999, "1 s"), (1.234, "1.23 s"), (90, "1 min 30 s"), (7260, "2 h 1 min")],
)
def test_durations_read_well(seconds: float, shown: str) -> None:
    assert showing.duration(seconds) == shown


def test_events_are_one_line_of_json_with_their_kind() -> None:
    finished = Finished(FinishReason.STOP_STRING, Usage(1, 2, 3), Timings(0, 0, 0, 0), "é\n")
    line = scripting.event_as_json(finished)
    told = json.loads(line)
    assert (told["event"], told["reason"], told["stop_string"]) == ("finished", "stop_string", "é\n")
    assert told["usage"] == {"input_token_count": 1, "output_token_count": 2, "cached_token_count": 3}
    assert "\n" not in line
