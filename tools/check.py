"""All that continuous integration runs, one step after the other: `python tools/check.py [step ...]`.

A step's output is shown when it fails; the tests' output always. Every step runs, then the failed ones are named.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).parent))

import contracts

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STEP_SECONDS = 2400
NO_TORCH = "import business_svc.server, sys; assert 'torch' not in sys.modules, 'business_svc.server imports torch'"


@dataclass(frozen=True, slots=True)
class Step:
    """`run` returns None when all is well, else what is wrong."""

    name: str
    says: str
    run: Callable[[], str | None]
    streams: bool = False


def command(*words: str) -> Callable[[], str | None]:
    """A step that is a command of the environment: its output is what is wrong."""

    def run() -> str | None:
        with tempfile.TemporaryFile() as output:
            fault = _fault_of(words, environment(), output)
            output.seek(0)
            return fault and output.read().decode() + fault

    return run


def shown(*words: str, **variables: str) -> Callable[[], str | None]:
    """As `command`, its output going straight to the reader."""
    return lambda: _fault_of(words, environment() | variables, None)


def _fault_of(words: Sequence[str], variables: Mapping[str, str], output: IO[bytes] | None) -> str | None:
    try:
        code = subprocess.run(
            words, cwd=ROOT, env=variables, stdout=output, stderr=output, timeout=STEP_SECONDS
        ).returncode
    except subprocess.TimeoutExpired:
        return f"it had not ended after {STEP_SECONDS} s"
    return None if code == 0 else f"exit code {code}"


def environment() -> dict[str, str]:
    """This environment's tools come first: buf finds its plugins by name."""
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}


WORKERS = str(min(8, os.cpu_count() or 1))
UNITS = "tests/unit"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
SIDE_BY_SIDE = [
    f"tests/integration/{room}" for room in ("local", "recording", "deploy", "client", "business", "checks")
]
"""Real servers whose tests ask what they do and not how soon: most of the time they start."""
ALONE = [f"--ignore={path}" for path in (UNITS, *SIDE_BY_SIDE)]


STEPS = [
    Step("format", "ruff has nothing to reformat", command("ruff", "format", "--check", "--diff", ".")),
    Step("lint", "ruff finds nothing", command("ruff", "check", ".")),
    Step("types", "mypy, strictly", command("mypy")),
    Step("doors", "no room imports through a wall", command("lint-imports", "--no-cache")),
    Step("torchless", "the business server starts without torch", command(sys.executable, "-c", NO_TORCH)),
    Step("proto-format", "buf has nothing to reformat", command("buf", "format", "--diff", "--exit-code")),
    Step("proto-lint", "the contracts keep the rules", command("buf", "lint")),
    Step("proto-breaking", "no contract is broken since the last commit", lambda: contracts.broken(environment())),
    Step("stubs", "the stubs are what the contracts generate", lambda: contracts.stale(environment())),
    Step("oldest", "the stubs load on the oldest protobuf and grpcio", lambda: contracts.refused_by_oldest()),
    Step("deploy-tools", "what deploy/ is checked with is there", command(sys.executable, "tools/deploy_tools.py")),
    Step(
        "units",
        "pytest, a worker a core that computes with one thread",
        shown("pytest", UNITS, "-n", WORKERS, "--dist", "worksteal", **ONE_THREAD),
        streams=True,
    ),
    Step(
        "servers",
        "pytest, what real servers do: a worker a core",
        shown("pytest", *SIDE_BY_SIDE, "-n", WORKERS, "--dist", "worksteal"),
        streams=True,
    ),
    Step(
        "tests",
        "pytest, the rest: real servers, each with the machine to itself",
        shown("pytest", "tests", *ALONE, "--durations=30"),
        streams=True,
    ),
]


def main(names: list[str]) -> int:
    # A check started in the background inherits that Ctrl-C is ignored, and so would everything that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unknown = set(names) - {step.name for step in STEPS}
    if unknown:
        print(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(step.name for step in STEPS)}")
        return 2
    failed = []
    for step in [step for step in STEPS if not names or step.name in names]:
        print(f"[check] {step.name:15} {step.says} ...", end="\n" if step.streams else " ", flush=True)
        started = time.monotonic()
        fault = step.run()
        taken = f"{time.monotonic() - started:.1f} s"
        lead = f"[check] {step.name:15} " if step.streams else ""
        print(f"{lead}{'FAILED' if fault else 'ok'} ({taken})", flush=True)
        if fault:
            failed.append(step.name)
            print(fault.rstrip(), flush=True)
    print(f"[check] failed: {', '.join(failed)}" if failed else "[check] all is well", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
