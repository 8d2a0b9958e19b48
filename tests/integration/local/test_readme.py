"""Every command in the documents does what they say it does.

Commands that start Seam are run on free ports and stopped when they serve; the others run against a Seam started so,
with its addresses in the place of the default ones. `make test` and `make check` are what runs this test.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import blocks, commands
from support.seam_up import seam_up

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "load_testing.md", ROOT / "docs" / "grpcurl.md"]
BIN = Path(sys.executable).parent
RUNS_THIS = {"make test", "make check"}

pytestmark = pytest.mark.slow

SHELL = [command for document in DOCUMENTS for block in blocks(document, "sh") for command in commands(block)]
STARTING = [command for command in SHELL if "seam-up" in shlex.split(command)]
CALLING = [command for command in SHELL if command not in {*STARTING, *RUNS_THIS} and not command.startswith("make ")]
PYTHON = [block for document in DOCUMENTS for block in blocks(document, "python")]


@pytest.fixture(scope="module")
def up():
    with seam_up("--topology", "split") as started:
        yield started


def run(words, up=None, text=None):
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}
    if up:
        environment |= {"SEAM_API_KEY": up.ready["api_key"], "SEAM_TARGET": up.ready["grpc"]}
    ended = subprocess.run(
        words,
        cwd=ROOT,
        env=environment,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=170,
    )
    assert ended.returncode == 0, f"{words} ended with {ended.returncode}:\n{ended.stdout}"
    return ended.stdout


def placed(code, up):
    """The same at the addresses of a Seam that runs."""
    there = {"50051": up.ready["grpc"], "50052": up.ready["inference"][0], "8080": up.ready["http"]}
    return re.sub(r"localhost:(50051|50052|8080)", lambda found: there[found[1]], code)


def test_the_documents_have_commands_of_every_kind():
    assert STARTING
    assert CALLING
    assert PYTHON
    assert {command for command in SHELL if command.startswith("make ")} == {"make run", "make help", *RUNS_THIS}


@pytest.mark.parametrize("command", STARTING)
def test_a_command_that_starts_seam_serves_until_it_is_told_to_stop(command):
    words = shlex.split(command)
    settings = dict(word.split("=", 1) for word in words[: words.index("seam-up")])
    with seam_up(*words[words.index("seam-up") + 1 :], **settings) as started:
        assert started.ready["grpc"]
        assert started.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("command", CALLING)
def test_a_command_that_calls_seam_is_answered(command, up):
    assert run(["bash", "-euc", placed(command, up)], up).strip()


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_a_program_that_calls_seam_is_answered(code, up):
    assert run([sys.executable, "-W", "error", "-"], up, placed(code, up)).strip()


def test_make_help_lists_every_target_that_the_documents_name():
    listed = run(["make", "help"])
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([a-z]+)`", document.read_text(encoding="utf-8")):
            assert f"make {target} " in listed


def test_make_run_searches_answers_tells_the_time_and_stops():
    output = run(["make", "run"])
    assert "Can I begin with a single process?" in output
    first_found = output.split("Can I begin with a single process?")[1].splitlines()[1]
    assert "process" in first_found
    assert "What is a seam?" in output
    assert "untrained" in output
    assert "Where the time went" in output
