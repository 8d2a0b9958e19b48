"""A child is started, heard, waited for and stopped; real processes, tiny programs."""

import asyncio
import os
import sys
from contextlib import asynccontextmanager

import pytest
from seam_local.child import Child, ChildDied
from seam_local.faults import StartTimeout
from support.processes import wait_until_gone

READY = "import json, sys, pathlib; pathlib.Path(sys.argv[1]).write_text(json.dumps({'grpc': 'here'}));"
WAIT = "import signal; signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"


@asynccontextmanager
async def child(tmp_path, program):
    said: list[tuple[str, str]] = []
    ready_file = tmp_path / "ready.json"
    words = [sys.executable, "-uc", program, str(ready_file)]
    started = await Child.start("toy", words, os.environ, ready_file, lambda name, line: said.append((name, line)))
    try:
        yield started, said
    finally:
        started.kill()
        await started.stop(0)


async def test_a_child_is_ready_when_it_says_so(tmp_path):
    async with child(tmp_path, READY + WAIT) as (toy, _):
        assert await toy.ready(timeout=30) == {"grpc": "here"}


async def test_a_ready_file_left_by_an_earlier_life_is_not_believed(tmp_path):
    (tmp_path / "ready.json").write_text('{"grpc": "long gone"}')
    async with child(tmp_path, READY + WAIT) as (toy, _):
        assert await toy.ready(timeout=30) == {"grpc": "here"}


async def test_one_that_dies_before_it_is_ready_is_named_with_its_code_and_last_words(tmp_path):
    async with child(tmp_path, "print('no weights found'); raise SystemExit(3)") as (toy, said):
        with pytest.raises(ChildDied, match=r"toy \(pid \d+\) ended with exit code 3(.|\n)*no weights found"):
            await toy.ready(timeout=30)
        assert said == [("toy", "no weights found")]


async def test_one_that_is_killed_is_named_with_the_signal(tmp_path):
    async with child(tmp_path, "import os; os.kill(os.getpid(), 9)") as (toy, _):
        assert (await toy.ended()).how() == "was killed by SIGKILL"


async def test_one_that_never_gets_ready_is_given_up(tmp_path):
    async with child(tmp_path, WAIT) as (toy, _):
        with pytest.raises(StartTimeout, match="was not ready"):
            await toy.ready(timeout=0.2)


async def test_stopping_is_asked_for_first(tmp_path):
    polite = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(0)));" + READY + WAIT
    async with child(tmp_path, polite) as (toy, said):
        await toy.ready(timeout=30)
        await toy.stop(grace=30)
        assert (await toy.ended()).return_code == 0
        assert ("toy", "bye") in said


async def test_one_that_does_not_listen_is_killed_with_what_it_started(tmp_path):
    grandchild = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid);"
    async with child(tmp_path, DEAF + grandchild + READY + WAIT) as (toy, said):
        await toy.ready(timeout=30)
        await toy.stop(grace=0.1)
        assert (await toy.ended()).how() == "was killed by SIGKILL"
        sleeper = int(said[0][1])
        await asyncio.to_thread(wait_until_gone, [sleeper])


async def test_a_line_without_end_is_cut_and_does_not_fill_the_memory(tmp_path):
    async with child(tmp_path, "print('x' * 1_000_000)") as (toy, said):
        await toy.ended()
        assert len("".join(line for _, line in said)) == 1_000_000
        assert max(len(line) for _, line in said) < 70_000
