"""The checks see what they are there to see: each is run on a copy of the contracts with one fault put in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
GIT_IDENTITY = {f"GIT_{who}_{what}": "check" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
ENVIRONMENT = os.environ | GIT_IDENTITY | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def copy(tmp_path):
    """The contracts and the checks, with a past of one commit."""
    for name in ("protos", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("buf.yaml", "buf.gen.yaml", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "as it was"]):
        subprocess.run(["git", *words], cwd=tmp_path, env=ENVIRONMENT, check=True)
    return tmp_path


def check(root, *steps):
    words = [sys.executable, "tools/check.py", *steps]
    ended = subprocess.run(
        words, cwd=root, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return ended.returncode, ended.stdout


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_contracts_as_they_are_pass(copy):
    code, output = check(copy, "proto-format", "proto-lint", "proto-breaking", "stubs")
    assert code == 0, output
    assert output.endswith("[check] all is well\n")


def test_a_stub_that_was_edited_is_named(copy):
    stub = copy / "protos/gen/seam/business/v1/chat_service_pb2_grpc.py"
    stub.write_text(stub.read_text() + "# by hand\n")
    code, output = check(copy, "stubs")
    assert code == 1
    assert "stale: protos/gen/seam/business/v1/chat_service_pb2_grpc.py" in output
    assert "make stubs" in output


def test_a_stub_that_is_missing_or_that_nothing_generates_is_named(copy):
    folder = copy / "protos/gen/seam/business/v1"
    (folder / "chat_service_pb2.py").rename(folder / "gossip_service_pb2.py")
    _, output = check(copy, "stubs")
    assert "chat_service_pb2.py" in output
    assert "gossip_service_pb2.py" in output


def test_a_contract_without_its_stubs_is_stale(copy):
    edit(copy / "protos/seam/business/v1/predict_service.proto", "string text = 1;", "string sentence = 1;")
    _, output = check(copy, "stubs")
    assert "stale: protos/gen/seam/business/v1/predict_service_pb2.py" in output


def test_a_field_that_changes_its_number_breaks_the_contract(copy):
    edit(copy / "protos/seam/business/v1/predict_service.proto", "string text = 1;", "string text = 9;")
    code, output = check(copy, "proto-breaking")
    assert code == 1
    assert "predict_service.proto" in output


def test_a_break_that_was_committed_is_still_seen(copy):
    edit(copy / "protos/seam/business/v1/predict_service.proto", "string text = 1;", "string text = 9;")
    subprocess.run(["git", "commit", "-qam", "as it is"], cwd=copy, env=ENVIRONMENT, check=True)
    code, output = check(copy, "proto-breaking")
    assert code == 1
    assert "against HEAD~1" in output


def test_a_comment_that_is_missing_is_a_lint_fault(copy):
    edit(copy / "protos/seam/business/v1/predict_service.proto", "  // Not empty.\n", "")
    code, output = check(copy, "proto-lint")
    assert code == 1
    assert "PredictRequest" in output or "text" in output


def test_a_step_that_is_not_there_is_refused_with_those_that_are(copy):
    code, output = check(copy, "speling")
    assert code == 2
    assert "speling" in output
    assert "proto-lint" in output
