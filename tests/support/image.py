"""What an image would hold, found out without an engine: the RUN and COPY lines of a Dockerfile's installing stages,
carried out under a folder that stands for the root."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
ABSOLUTE = re.compile(r"(?<![\w./$}])/(?=source|wheels|opt)")


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    base: str
    lines: tuple[tuple[str, str], ...]  # instruction and the rest


def stages() -> dict[str, Stage]:
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()))
    found: dict[str, Stage] = {}
    for part in re.split(r"(?m)^FROM ", text)[1:]:
        first, *rest = part.splitlines()
        base, _, name = first.split()
        lines = tuple((line.split(None, 1)[0], line.split(None, 1)[1]) for line in rest if line.strip())
        found[name] = Stage(name, base, lines)
    return found


class Build:
    """Of one stage and those it stands on; only what installs, and nothing that needs to be root."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self._environment.pop("PYTHONPATH", None)
        self._done: set[str] = set()

    def stage(self, name: str) -> None:
        if name in self._done:
            return
        self._done.add(name)
        stage = stages()[name]
        if stage.base in stages():
            self.stage(stage.base)
        folder = self._root
        for instruction, rest in stage.lines:
            match instruction:
                case "WORKDIR":
                    folder = self._root / rest.strip("/")
                    folder.mkdir(parents=True, exist_ok=True)
                case "ENV":
                    self._set(rest)
                case "COPY" if rest.startswith("--from="):
                    self.stage(rest.split()[0].removeprefix("--from="))  # the same root: it lies there already
                case "COPY":
                    copy_context(folder)
                case "RUN":
                    self._run(rest, folder)

    def _set(self, assignments: str) -> None:
        for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|(\S*))', assignments):
            self._environment[name] = self._placed(quoted or plain)

    def _run(self, command: str, folder: Path) -> None:
        ended = subprocess.run(
            ["sh", "-euc", self._placed(command)],
            cwd=folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-4000:]}"

    def _placed(self, text: str) -> str:
        return ABSOLUTE.sub(f"{self._root}/", text)


def copy_context(folder: Path) -> None:
    """What the build is sent: tracked files that .dockerignore lets in."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    for name in listed.stdout.splitlines():
        if sent(name) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def sent(name: str) -> bool:
    """By .dockerignore: its last line that matches the file or a folder above it decides."""
    let_in = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#") and _matches(name, pattern, anywhere="**/" in line):
            let_in = line.startswith("!")
    return let_in


def _matches(name: str, pattern: str, *, anywhere: bool) -> bool:
    parts = name.split("/")
    begins = range(len(parts)) if anywhere else (0,)
    length = pattern.count("/") + 1
    return any(
        len(parts[begin : begin + length]) == length
        and all(map(fnmatch.fnmatchcase, parts[begin : begin + length], pattern.split("/")))
        for begin in begins
    )
