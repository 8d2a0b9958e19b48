"""Environments beside .venv, for what cannot be installed in it: `python tools/environments.py NAME REQUIREMENT...`.

Each lies in .venvs/NAME and is made anew when its requirements change. Prints the path of its interpreter.
"""

import fcntl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".venvs"


class CannotInstall(Exception):
    """Says which command failed, and what it said."""


def interpreter_of(name: str, requirements: Sequence[str]) -> Path:
    """Made once, whoever else asks at the same time. `requirements` as pip takes them, all pinned. Raises
    CannotInstall."""
    folder = FOLDER / name
    python, stamp = folder / "bin/python", folder / "seam-ready"
    wanted = " ".join([*requirements, f"python{sys.version_info.major}.{sys.version_info.minor}"])
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            run([sys.executable, "-m", "venv", "--clear", folder])
            run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
            stamp.write_text(wanted)
    return python


def run(words: Sequence[str | Path]) -> None:
    ended = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ended.returncode:
        raise CannotInstall(f"{' '.join(map(str, words))}\nended with {ended.returncode}:\n{ended.stdout}")


if __name__ == "__main__":
    try:
        print(interpreter_of(sys.argv[1], sys.argv[2:]))
    except CannotInstall as error:
        sys.exit(str(error))
