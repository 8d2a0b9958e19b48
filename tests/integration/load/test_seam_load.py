"""`seam load` and the overload run against a real split Seam whose model only waits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from load import overload
from support.echo_system import KEY, EchoSystem, echo_system

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def system():
    with echo_system(step_seconds=0.002, slots=32) as started:
        yield started


def load(system: EchoSystem, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "seam_client.command", "-t", system.grpc, "load", "--warm-up", "0", *words],
        env={**os.environ, "SEAM_API_KEY": KEY, "COLUMNS": "120", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.parametrize("over", ["grpc", "http"])
def test_a_sweep_over_every_kind_is_reported_and_drawn(system: EchoSystem, tmp_path: Path, over: str):
    where = ["--http", f"http://{system.http}"] if over == "http" else []
    files = [tmp_path / "report.json", tmp_path / "plot.svg"]
    kinds = "chat=5,embed,score,predict"
    done = load(
        system, *where, "--rate", "5,10", "--duration", "2", "--kind", kinds, "--prompt-chars", "60",
        "--output-tokens", "uniform:2:8", "--report", str(files[0]), "--plot", str(files[1]), "--slo", "60",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "first token" in done.stdout
    steps = json.loads(files[0].read_text())["steps"]
    assert [step["rate"] for step in steps] == [5.0, 10.0]
    for step in steps:
        assert step["due"] == step["sent"] == step["good"] > 0, done.stdout
        assert step["first_token"]["count"] == step["per_output_token"]["count"] > 0
        assert step["output_tokens_per_second"] > 0
    assert files[1].read_text().startswith("<?xml")


def test_a_trace_is_played_by_several_processes(system: EchoSystem, tmp_path: Path):
    trace = tmp_path / "trace.csv"
    trace.write_text("at,prompt_characters,output_tokens\n" + "".join(f"{n / 20},30,3\n" for n in range(20)))
    done = load(system, "--trace", str(trace), "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    (step,) = json.loads(done.stdout)["steps"]
    assert (step["due"], step["succeeded"], step["client"]["workers"]) == (20, 20, 2)


@pytest.mark.parametrize("over", ["grpc", "http"])
def test_refusals_are_counted_by_reason(system: EchoSystem, over: str):
    where = ["--http", f"http://{system.http}"] if over == "http" else []
    done = load(system, *where, "--rate", "10", "--duration", "1", "--model", "chat=nobody", "--json")
    (step,) = json.loads(done.stdout)["steps"]
    (failures,) = step["errors"]
    assert (failures["reason"], failures["count"], step["succeeded"]) == ("MODEL_NOT_FOUND", step["due"], 0)


@pytest.mark.parametrize(
    "words", [["--rate", "0"], ["--kind", "letters"], ["--prompt-chars", "some"], ["--trace", "nowhere.csv"]]
)
def test_what_makes_no_sense_is_refused_with_its_option(system: EchoSystem, words: list[str]):
    done = load(system, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert words[0] in done.stderr


def test_a_short_overload_is_measured_to_its_end(tmp_path: Path):
    """Of the machinery alone: whether the goals are met is measured on a quiet machine."""
    files = [tmp_path / "overload.json", tmp_path / "overload.svg"]
    words = ["--system", "echo", "--seconds", "3", "--step-seconds", "1", "--first-rate", "10", "--deadline", "1",
             "--slots", "4", "--trickle-seconds", "2", "--json", str(files[0]), "--plot", str(files[1])]  # fmt: skip
    assert overload.main(words) in (0, 1)
    told = json.loads(files[0].read_text())
    assert told["overload"]["due"] == told["overload"]["sent"] > told["overload"]["good"] > 0
    assert all(len(samples) > 3 for samples in told["memory"].values())
    refused = sum(failures["count"] for failures in told["overload"]["refused"])
    assert refused > 0
    assert told["retry_info_share"] == 1.0
    assert files[1].exists()
