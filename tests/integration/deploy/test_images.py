"""What the images hold, as far as that can be found out without building one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.edge import deploy_tool
from support.image import DOCKERFILE, ROOT, Build, sent, stages

MIB = 1024 * 1024
BUSINESS_LIMIT = 150 * MIB  # measured: see deploy/docker/DECISIONS.md
FINAL = ("business", "inference-cpu", "inference-cuda", "monolith")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_business_image_holds_no_torch_and_serves(tmp_path: Path) -> None:
    Build(tmp_path).stage("business-installed")
    packages = next((tmp_path / "opt/seam/lib").glob("python*/site-packages"))
    names = {path.name.lower() for path in packages.iterdir()}
    for banned in ("torch", "transformers", "tokenizers", "numba", "inference_svc", "pip", "nvidia"):
        assert banned not in names
    assert {"business_svc", "seam", "grpc"} <= names
    size = sum(path.stat().st_size for path in (tmp_path / "opt/seam").rglob("*") if path.is_file())
    print(f"/opt/seam of the business image: {size / MIB:.0f} MiB in {len(names)} entries")
    assert size < BUSINESS_LIMIT
    command = [tmp_path / "opt/seam/bin/python", "-I", "-W", "error", "-m", "business_svc"]
    ended = subprocess.run(command, env={"SEAM_API_KEYS": "short"}, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert "SEAM_API_KEYS: a key of 'default' has fewer than 16 characters" in ended.stderr
    probe = subprocess.run(
        [tmp_path / "opt/seam/bin/python", "-I", ROOT / "deploy/docker/probe.py", "127.0.0.1:1", "liveness"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (probe.returncode, probe.stderr.strip()) == (2, "UNAVAILABLE")


def test_the_linter_finds_nothing() -> None:
    ended = subprocess.run([deploy_tool("hadolint"), DOCKERFILE], stdout=subprocess.PIPE, text=True)
    assert ended.stdout == ""


@pytest.mark.parametrize("name", FINAL)
def test_an_image_runs_as_nobody_and_says_how_it_is(name: str) -> None:
    runtime, image = stages()["runtime"], stages()[name]
    assert image.base == "runtime"
    assert ("USER", "65532:65532") in runtime.lines
    said = {instruction for instruction, _ in image.lines}
    assert {"HEALTHCHECK", "ENTRYPOINT", "LABEL", "EXPOSE"} <= said
    assert "RUN" not in said  # what is installed is installed in a stage that stays behind


def test_what_images_install_is_pinned() -> None:
    installs = [
        rest for stage in stages().values() for kind, rest in stage.lines if kind == "ENV" and "INSTALL=" in rest
    ]
    assert len(installs) == 1
    assert "-c /source/constraints.txt" in installs[0]
    for stage in stages().values():
        for kind, rest in stage.lines:
            if kind == "RUN" and "pip install" in rest:
                assert re.search(r"pip install --quiet \w+==", rest), rest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constraints.txt", True),
        ("business_svc/src/business_svc/server.py", True),
        ("protos/gen/seam/business/v1/chat_service_pb2.py", True),
        ("deploy/docker/probe.py", True),
        ("tests/conftest.py", False),
        (".git/config", False),
        (".venv/bin/python", False),
        ("run/ca.key", False),
        ("business_svc/src/business_svc/__pycache__/server.pyc", False),
    ],
)
def test_the_build_is_sent_sources_and_nothing_else(name: str, expected: bool) -> None:
    assert sent(name) is expected


def test_the_probe_tells_serving_from_not(tmp_path: Path) -> None:
    from support.edge import workshop

    with workshop(tmp_path) as own:
        address = own.replica()
        answers = {
            service: subprocess.run(
                [sys.executable, ROOT / "deploy/docker/probe.py", address, service], stdout=subprocess.PIPE
            ).returncode
            for service in ("", "liveness", "nobody")
        }
    assert answers == {"": 0, "liveness": 0, "nobody": 2}
