"""The Locust file against a real split Seam, over gRPC and HTTP at once."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.echo_system import KEY, echo_system

FILE = Path(__file__).resolve().parents[3] / "deploy" / "load" / "locustfile.py"

pytestmark = pytest.mark.slow


def test_users_of_every_kind_are_answered_for_some_seconds(tmp_path: Path) -> None:
    with echo_system(step_seconds=0.001, slots=16) as system:
        ended = subprocess.run(
            [sys.executable, "-m", "locust", "-f", str(FILE), "--headless", "--users", "6", "--spawn-rate", "6",
             "--run-time", "4s", "--stop-timeout", "20", "--host", f"http://{system.http}",
             "--csv", str(tmp_path / "told")],
            env={**os.environ, "SEAM_TARGET": system.grpc, "SEAM_API_KEY": KEY},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    with (tmp_path / "told_stats.csv").open() as lines:
        rows = {row["Name"]: row for row in csv.DictReader(lines)}
    assert {"Chat", "Chat, first token", "Embed", "/v1/chat/completions"} <= rows.keys()
    assert all(int(row["Request Count"]) > 0 and row["Failure Count"] == "0" for row in rows.values())
