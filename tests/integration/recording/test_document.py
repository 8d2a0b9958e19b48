"""The commands of docs/recording.md, one after the other, on free ports and in folders of their own."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.documents import blocks, commands
from support.seam_up import SeamUp, seam_up

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/recording.md"
BIN = Path(sys.executable).parent
CHAT_ALONE = {"SEAM_EMBED_MODEL": "", "SEAM_SCORE_MODEL": ""}
FOLDER = "/tmp/seam-recordings"  # the document's

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # it starts the whole system twice


def test_what_the_document_records_it_replays_and_reads(tmp_path: Path):
    [[record], [replay, join]] = [commands(block) for block in blocks(DOCUMENT, "sh")]
    folder = tmp_path / "recordings"
    settings, words = parts(record.replace(FOLDER, str(folder)))
    assert words[0] == "seam-up"
    with seam_up(*words[1:], **settings, **CHAT_ALONE) as up:
        recorded = chat(up)
        assert up.stop() == 0
    files = sorted(map(str, folder.glob("*.frames")))
    assert files
    with replaying(replay, files, tmp_path) as address:
        _, words = parts(join.replace("127.0.0.1:50052", address))
        assert words[0] == "seam-up"
        with seam_up(*words[1:]) as up:
            assert chat(up)["text"] == recorded["text"]
    [program] = blocks(DOCUMENT, "python")
    shown = subprocess.run(
        [sys.executable, "-W", "error", "-", *files], input=program, capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("header")
    assert "response" in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("end")


def parts(command: str) -> tuple[dict[str, str], list[str]]:
    """The settings before a command, and the command."""
    words = shlex.split(command)
    count = next(number for number, word in enumerate(words) if "=" not in word)
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


def chat(up: SeamUp) -> dict[str, object]:
    words = [str(BIN / "seam"), "predict", "What is a seam?", "--json"]
    environment = {**os.environ, "SEAM_API_KEY": up.ready["api_key"], "SEAM_TARGET": up.ready["grpc"]}
    told: dict[str, object] = json.loads(
        subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
    )
    return told


@contextmanager
def replaying(command: str, files: list[str], folder: Path) -> Iterator[str]:
    """The replica of the document's command, at a free port; ends as asked, without ever having loaded torch."""
    settings, words = parts(command)
    assert words[:2] == ["seam-inference", "--replay"]
    ready = folder / "ready.json"
    words = [str(BIN / words[0]), "--replay", *files, "--ready-file", str(ready)]
    environment = {**os.environ, **settings, "SEAM_INFERENCE_LISTEN": "127.0.0.1:0", "SEAM_DRAIN_SECONDS": "2"}
    process = subprocess.Popen(words, env=environment)
    try:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.05)
        if sys.platform == "linux":
            assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        yield json.loads(ready.read_text())["grpc"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
