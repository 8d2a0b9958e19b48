"""The command against a running server: what scripts read, what exit codes say, what goes to which stream."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from seam_client.command.app import app
from support.fake_business import KEY, NOTICE, FakeBusiness, fake_business
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def business() -> Iterator[FakeBusiness]:
    with fake_business() as running:
        yield running


@pytest.fixture
def environment(business: FakeBusiness, tmp_path: Path) -> dict[str, str | None]:
    business.calls.clear()
    ready = tmp_path / "ready.json"
    ready.write_text(json.dumps({"grpc": business.target, "api_key": KEY}))
    return {"SEAM_READY_FILE": str(ready), "SEAM_TARGET": None, "SEAM_API_KEY": None, "COLUMNS": "120"}


@pytest.fixture
def seam(environment: dict[str, str | None]) -> Any:
    def run(*arguments: str, **options: Any) -> Any:
        return CliRunner().invoke(app, arguments, env=environment, **options)

    return run


def test_a_chat_puts_the_answer_alone_on_standard_output(seam: Any) -> None:
    done = seam("chat", "hello")
    assert (done.exit_code, done.stdout) == (0, "You said: hello\n")
    assert done.stderr == f"{NOTICE}\n[0:3] doc-1: a passage\n"


def test_a_chat_as_json_is_one_event_a_line(seam: Any) -> None:
    done = seam("chat", "--json", "hello")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["started", "text", "text", "citation", "finished"]
    assert done.stderr == ""


def test_the_settings_of_a_chat_are_sent(seam: Any, business: FakeBusiness) -> None:
    done = seam(
        "chat", "x", "--system", "s", "--temperature", "0.5", "--top-k", "4", "--top-p", "0.9", "--seed", "7",
        "--max-tokens", "3", "--stop", "a", "--stop", "b", "--model", "m", "--timeout", "9",
    )  # fmt: skip
    assert done.exit_code == 0
    (asked,) = business.calls
    request = asked.request
    assert [(m.role, m.content) for m in request.messages] == [("system", "s"), ("user", "x")]
    assert (request.sampling.temperature, request.sampling.top_k, request.sampling.top_p) == (0.5, 4, 0.9)
    assert (request.sampling.seed, request.stop.max_output_tokens, request.model) == (7, 3, "m")
    assert list(request.stop.stop_strings) == ["a", "b"]
    assert asked.seconds_left is not None
    assert asked.seconds_left < 10  # gRPC rounds what is left


@pytest.mark.parametrize("arguments", [("chat",), ("chat", "-")])
def test_a_chat_reads_what_is_piped_into_it(seam: Any, arguments: tuple[str, ...]) -> None:
    assert seam(*arguments, input="from\na pipe\n").stdout == "You said: from\na pipe\n"


def test_a_prediction_is_text_for_people_and_json_for_scripts(seam: Any) -> None:
    done = seam("predict", "hi", "--max-tokens", "4")
    assert (done.stdout, done.stderr) == ("You said: hi\n", f"{NOTICE}\ncut at the token limit\n")
    told = json.loads(seam("predict", "hi", "--json").stdout)
    assert (told["text"], told["reason"], told["timings"]["total_seconds"]) == ("You said: hi", "length", 0.53)


def test_vectors_are_a_table_for_people_and_whole_for_scripts(seam: Any) -> None:
    shown = seam("embed", "a", "b c").stdout
    assert "+0.5000 -0.2500 +3.0000" in shown
    told = json.loads(seam("--json", "embed", "a", "b c").stdout)
    assert [one["values"] for one in told["embeddings"]] == [[0.5, -0.25, 1.0], [0.5, -0.25, 3.0]]


def test_texts_come_from_arguments_a_file_and_standard_input(seam: Any, tmp_path: Path, business: FakeBusiness) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("from file\n\nagain\n")
    seam("embed", "first", "-", "--file", str(lines), "--truncate", input="piped\n")
    asked = business.calls[-1].request
    assert (list(asked.texts), asked.truncation) == (["first", "piped", "from file", "again"], 2)


def test_more_texts_than_one_request_takes_are_sent_in_parts(seam: Any, business: FakeBusiness, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"{'x' * n}\n" for n in range(1, 151)))
    told = json.loads(seam("embed", "--file", str(lines), "--json").stdout)
    assert [one["values"][2] for one in told["embeddings"]] == [float(n) for n in range(1, 151)]
    assert told["usage"]["input_token_count"] == 9
    parts = [len(asked.request.texts) for asked in business.calls if asked.method == "Embed"]
    assert parts == [150, 64, 64, 22]


def test_a_failure_in_a_part_says_in_which(seam: Any, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("x\n" * 100 + "fail TEXT_EMPTY\n")
    done = seam("embed", "--file", str(lines))
    assert done.exit_code == 3
    assert "among texts 64 to 100" in done.stderr


def test_scores_of_texts_and_of_pairs(seam: Any, business: FakeBusiness) -> None:
    assert "good 0.750" in seam("score", "a", "b").stdout
    told = json.loads(seam("score", "query", "--pair", "x", "--pair", "y", "--json").stdout)
    assert len(told["scores"]) == 2
    assert [i.text_pair for i in business.calls[-1].request.inputs] == ["x", "y"]


def test_models_and_status_are_shown_and_told(seam: Any) -> None:
    shown = seam("models").stdout
    assert "a [bold]folder" in shown
    assert f"chat: {NOTICE}" in shown
    assert [model["name"] for model in json.loads(seam("models", "--json").stdout)] == ["chat", "embed"]
    assert "127.0.0.1:1234  ready, 5 live" in seam("status").stdout
    assert json.loads(seam("status", "--json").stdout)["replicas"][0]["models"][0]["running_sequence_count"] == 2


@pytest.mark.parametrize(
    ("order", "code", "said"),
    [
        ("fail INPUT_TOO_LONG", 3, "the.field[0]: what is wrong"),
        ("fail MODEL_NOT_FOUND", 3, "seam models"),
        ("fail FEATURE_NOT_AVAILABLE", 3, "FEATURE_NOT_AVAILABLE"),
        ("fail API_KEY_INVALID", 4, "SEAM_API_KEY"),
        ("fail NO_REPLICA", 5, "try again in 0.25 s"),
        ("fail DEADLINE_EXPIRED", 6, "--timeout"),
        ("fail QUEUE_FULL", 7, "try again in 0.25 s"),
        ("fail INTERNAL_FAULT", 1, "made to fail with INTERNAL_FAULT"),
        ("cut", 1, "before the answer was finished"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(seam: Any, order: str, code: int, said: str) -> None:
    done = seam("chat", order)
    assert done.exit_code == code
    line = done.stderr.splitlines()[-1]
    assert line.startswith("seam: ")
    assert said in line
    told = json.loads(seam("chat", order, "--json").stderr)["error"]
    assert told["reason"] in (order.removeprefix("fail "), "")


def test_text_that_came_before_a_failure_is_kept_and_ends_its_line(seam: Any) -> None:
    done = seam("chat", "die")
    assert (done.exit_code, done.stdout) == (5, "You said: die\n")


def test_a_server_that_is_not_up_is_named_with_what_to_do(seam: Any, tmp_path: Path) -> None:
    done = seam("status", "-t", f"unix:{tmp_path}/nobody", "--api-key", "k")
    assert done.exit_code == 5
    assert f"unix:{tmp_path}/nobody" in done.stderr
    assert "seam-up" in done.stderr


def test_a_flag_before_the_subcommand_holds_and_one_after_it_wins(seam: Any) -> None:
    assert seam("--api-key", "wrong", "models").exit_code == 4
    assert seam("--api-key", "wrong", "models", "--api-key", KEY).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("embed",),
        ("score", "a", "b", "--pair", "c"),
        ("models", "--timeout", "0"),
        ("models", "--ready-file", "/absent"),
        ("models", "--target", "business:1", "--plaintext", "--tls"),
        ("models", "--tls-certificate", "x"),
        ("models", "--api-key", "two words"),
        ("embed", "--file", "/absent"),
        ("chat", "x", "--temperature", "hot"),
        ("nothing",),
    ],
)
def test_wrong_use_is_2(seam: Any, arguments: tuple[str, ...]) -> None:
    done = seam(*arguments, input="")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr


def test_a_value_that_cannot_be_sent_is_an_invalid_request(seam: Any) -> None:
    done = seam("chat", "x", "--max-tokens", "-1")
    assert done.exit_code == 3
    assert "max_output_tokens" in done.stderr


def test_the_version_is_printed(seam: Any) -> None:
    assert seam("--version").stdout.startswith("seam 0.")
