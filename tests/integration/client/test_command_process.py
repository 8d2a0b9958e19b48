"""The command as its own process: streaming, interrupts, pipes that close, and a terminal."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest
from support.fake_business import KEY, NOTICE, FakeBusiness, fake_business

COMMAND = [sys.executable, "-m", "seam_client.command"]


@pytest.fixture
def environment(business: FakeBusiness, tmp_path: Path) -> dict[str, str]:
    ready = tmp_path / "ready.json"
    ready.write_text(json.dumps({"grpc": business.target, "api_key": KEY}))
    # Unbuffered Python would hide a piece of text that is not flushed.
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SEAM_") and k != "PYTHONUNBUFFERED"}
    return kept | {"SEAM_READY_FILE": str(ready), "TERM": "xterm-256color", "COLUMNS": "200"}


@contextmanager
def started(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_pieces_are_written_as_they_come_and_an_interrupt_cancels_the_call(
    environment: dict[str, str], business: FakeBusiness
) -> None:
    with started(environment, "chat", "hold") as process:
        assert process.stdout is not None
        assert process.stdout.read(14) == b"You said: hold"
        assert business.holding.wait(20)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert rest == b"\n"
    assert b"Traceback" not in errors
    assert business.cancelled.wait(20)


def test_an_interrupt_of_a_unary_call_cancels_it_too(environment: dict[str, str], business: FakeBusiness) -> None:
    with started(environment, "predict", "hold") as process:
        assert business.holding.wait(20)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, b"")
    assert business.cancelled.wait(20)


def test_a_reader_that_leaves_ends_the_command_quietly(environment: dict[str, str]) -> None:
    with started(environment, "chat", "drip 20000") as process:
        assert process.stdout is not None
        assert process.stdout.readline(10)
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        process.wait(20)
    assert process.returncode == 141
    assert errors.decode() == f"{NOTICE}\n"


def test_exit_codes_and_errors_reach_scripts(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*COMMAND, "chat", "fail QUEUE_FULL"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.splitlines() == ["seam: QUEUE_FULL: made to fail with QUEUE_FULL -> try again in 0.25 s"]


def at_a_terminal(environment: dict[str, str], arguments: list[str], typed: list[tuple[str, bytes]]) -> tuple[int, str]:
    """Runs the command in a pseudo terminal; each pair is typed once its first part has been seen after the one before.
    The last is typed again while nothing happens, as a person does: a key that comes while the prompt is just being
    made is lost in readline. A process of its own makes the terminal, because one with threads of gRPC should not fork.
    """
    spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    with subprocess.Popen(
        [sys.executable, "-c", spawn, *COMMAND, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            seen, new, waiting, ended = "", "", list(typed), False
            deadline = time.monotonic() + 60
            while not ended and time.monotonic() < deadline:
                if not select.select([process.stdout], [], [], 1)[0]:
                    if typed and not waiting:
                        process.stdin.write(typed[-1][1])
                elif piece := os.read(process.stdout.fileno(), 4096):
                    new += piece.decode()
                    if waiting and waiting[0][0] in new:
                        process.stdin.write(waiting.pop(0)[1])
                        seen, new = seen + new, ""
                else:
                    ended = True
            process.stdin.close()
            code = process.wait(20) if ended else None
        finally:
            process.kill()
    assert code is not None, f"it never ended; seen {seen + new!r}"
    return code, seen + new


def test_a_person_sees_the_notice_the_answer_and_where_the_time_went(environment: dict[str, str]) -> None:
    code, seen = at_a_terminal(environment, ["chat", "a\x1b]0;title\x07b"], [])
    assert code == 0
    assert seen.index(NOTICE) < seen.index("You said: a␛]0;title␇b") < seen.index("prefill 20 ms")
    assert "6.0 tokens/s" in seen


def test_a_conversation_remembers_its_turns_and_lives_through_failures_and_interrupts(
    environment: dict[str, str], business: FakeBusiness
) -> None:
    code, seen = at_a_terminal(
        environment,
        ["chat"],
        [
            ("> ", b"/system be brief\n"),
            ("message set", b"first\n"),
            ("said: first", b"fail QUEUE_FULL\n"),
            ("try again", b"hold\n"),
            ("said: hold", b"\x03"),
            ("stopped", b"second\n"),
            ("said: second", b"/reset\n"),
            ("a new conversation", b"third\n"),
            ("said: third", b"\x04"),
        ],
    )
    assert code == 0
    assert seen.count(NOTICE) == 1
    said = [
        [message.content for message in asked.request.messages] for asked in business.calls if asked.method == "Chat"
    ]
    assert said == [
        ["be brief", "first"],
        ["be brief", "first", "You said: first", "fail QUEUE_FULL"],
        ["be brief", "first", "You said: first", "hold"],
        ["be brief", "first", "You said: first", "hold", "You said: hold", "second"],
        ["be brief", "third"],
    ]
    assert business.cancelled.wait(20)


def test_an_interrupt_at_the_prompt_leaves_the_conversation(environment: dict[str, str]) -> None:
    code, _ = at_a_terminal(environment, ["chat"], [("> ", b"\x03")])
    assert code == 130


def test_a_conversation_with_nobody_does_not_begin(environment: dict[str, str], tmp_path: Path) -> None:
    code, seen = at_a_terminal(environment, ["chat", "-t", f"unix:{tmp_path}/nobody"], [])
    assert code == 5
    assert "> " not in seen.replace("-> ", "")


def test_watching_goes_on_until_an_interrupt(environment: dict[str, str], business: FakeBusiness) -> None:
    with started(environment, "status", "--watch", "--json", "--interval", "0.1") as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert [line["version"] for line in lines] == ["0.1.0"] * 3
    assert process.returncode == 130
    assert len(business.calls) >= 3


def test_watching_at_a_terminal_shows_rates_and_ends_at_an_interrupt(environment: dict[str, str]) -> None:
    code, seen = at_a_terminal(
        environment, ["status", "--watch", "--interval", "0.1"], [("computing 75%", b""), ("10", b"\x03")]
    )
    assert code == 130
    assert "tokens/s" in seen
    assert "slow readers" not in seen


def test_watching_in_a_pipe_goes_on_over_a_server_that_goes_and_comes_back(
    environment: dict[str, str], tmp_path: Path
) -> None:
    address = f"unix:{tmp_path}/seam.sock"
    words = ("status", "--watch", "--interval", "0.1", "-t", address, "--api-key", KEY)
    with ExitStack() as stack:
        with fake_business(address):
            process = stack.enter_context(started(environment, *words))
            assert process.stdout is not None
            _read_until(process.stdout, " ready live=5 | chat running=2 waiting=3 ")
            _read_until(process.stdout, "time computing=75%")
        _read_until(process.stdout, " gone: UNAVAILABLE: ")
        with fake_business(address):
            _read_until(process.stdout, " ready live=5 ")
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
    assert process.returncode == 130


def _read_until(lines: IO[bytes], wanted: str) -> None:
    """Fails, with all that came, where the lines end before."""
    seen = []
    for line in lines:
        seen.append(line)
        if wanted.encode() in line:
            return
    raise AssertionError(f"no {wanted!r} in {seen}")
