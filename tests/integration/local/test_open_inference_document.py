"""The programs of docs/open_inference.md do what it says, with the real models, run by the package they are for."""

import subprocess

import pytest
from support.documents import blocks
from support.seam_up import seam_up
from support.triton import ROOT, triton_interpreter

PROGRAMS = blocks(ROOT / "docs/open_inference.md", "python")
SAYS = ["(3, 384)", "1 length"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test may make the environment


@pytest.fixture(scope="module")
def address():
    with seam_up("--topology", "split") as started:
        yield started.ready["inference"][0]


@pytest.mark.parametrize(("program", "says"), list(zip(PROGRAMS, SAYS, strict=True)), ids=range(len(SAYS)))
def test_a_program_is_answered(program, says, address):
    assert "localhost:50052" in program
    ended = subprocess.run(
        [triton_interpreter(), "-"],
        input=program.replace("localhost:50052", address),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout
    assert says in ended.stdout
