"""What must hold between the contracts, the stubs that lie in the repository, and the past."""

import filecmp
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from environments import CannotInstall, interpreter_of

ROOT = Path(__file__).resolve().parent.parent
OLDEST = ("protobuf==7.35.1", "grpcio==1.85.1")
STUBS = "protos/gen"


def broken(environment: dict[str, str]) -> str | None:
    """Compare with the last commit (what is not committed) and the one before it (what is)."""
    faults = []
    for past in ("HEAD", "HEAD~1"):
        known = subprocess.run(["git", "cat-file", "-e", f"{past}:buf.yaml"], cwd=ROOT, stderr=subprocess.DEVNULL)
        if known.returncode:
            continue
        with tempfile.TemporaryDirectory() as folder:
            tree = subprocess.run(["git", "archive", past, "buf.yaml", "protos"], cwd=ROOT, stdout=subprocess.PIPE)
            subprocess.run(["tar", "-x", "-C", folder], input=tree.stdout, check=True)
            words = ["buf", "breaking", "--against", folder]
            ended = subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if ended.returncode:
            faults.append(f"against {past}:\n{ended.stdout.decode()}")
    return "\n".join(faults) or None


def stale(environment: dict[str, str]) -> str | None:
    """Generate into a copy and compare every file, both ways."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "protos", copy / "protos", ignore=shutil.ignore_patterns("gen", "__pycache__"))
        for name in ("buf.yaml", "buf.gen.yaml"):
            shutil.copy(ROOT / name, copy / name)
        words = ["buf", "generate"]
        ended = subprocess.run(words, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if ended.returncode:
            return ended.stdout.decode()
        fresh, kept = stub_files(copy / STUBS), stub_files(ROOT / STUBS)
        differing = sorted(
            name
            for name in fresh | kept
            if name not in fresh
            or name not in kept
            or not filecmp.cmp(copy / STUBS / name, ROOT / STUBS / name, shallow=False)
        )
    if not differing:
        return None
    return "\n".join([f"stale: {STUBS}/{name}" for name in differing] + ["make stubs writes them anew"])


def stub_files(folder: Path) -> set[str]:
    """The generated files under a folder, by their place in it."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not any(p.endswith(".egg-info") for p in path.parts)
    }


def refused_by_oldest() -> str | None:
    """Load every stub in an environment of its own with the oldest runtime that protos/pyproject.toml accepts."""
    accepted = (ROOT / "protos/pyproject.toml").read_text()
    for pin in OLDEST:
        if pin.replace("==", ">=") not in accepted:
            return f"protos/pyproject.toml no longer says {pin.replace('==', '>=')}: tools/contracts.py must follow"
    try:
        python = interpreter_of("oldest", [*OLDEST, "googleapis-common-protos"])
    except CannotInstall as error:
        return str(error)
    ended = subprocess.run(
        [python, "-W", "error", ROOT / "tools/load_stubs.py", ROOT / STUBS],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return None if ended.returncode == 0 else ended.stdout.decode()
