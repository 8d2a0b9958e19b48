"""tritonclient in an environment of its own: it needs an older protobuf than ours, and its stubs share a package name
with ours, so the two never meet in one process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNREACHABLE = ("NewConnectionError", "Max retries exceeded", "Temporary failure in name resolution", "ReadTimeoutError")


def triton_interpreter() -> str:
    """Made once for this checkout, in .venvs. Skips where no package registry can be reached."""
    lines = (ROOT / "tests/triton.txt").read_text().splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    made = subprocess.run(
        [sys.executable, ROOT / "tools/environments.py", "triton", *requirements],
        capture_output=True,
        text=True,
    )
    if made.returncode and any(sign in made.stderr for sign in UNREACHABLE):
        pytest.skip("no package registry can be reached, so tritonclient cannot be installed")
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()
