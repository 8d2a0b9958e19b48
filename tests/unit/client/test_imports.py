"""The library stays light: the command's packages and an event loop come only where they are used."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("package", ["typer", "rich", "numpy", "torch", "grpc_status", "pydantic"])
def test_importing_the_library_does_not_import(package: str) -> None:
    assert run(f"import sys, seam_client; print({package!r} in sys.modules)") == "False"


def test_the_library_works_where_the_command_is_not_installed() -> None:
    hidden = "import sys; sys.modules['typer'] = None; sys.modules['rich'] = None;"
    assert run(f"{hidden} import seam_client; print(seam_client.Seam('localhost:1'))").startswith("Seam(")


def test_a_client_of_asyncio_may_be_made_where_no_loop_runs() -> None:
    assert "unix:/s" in run("import seam_client; print(seam_client.AsyncSeam('unix:/s'))")


def test_the_command_says_what_to_install_where_typer_is_missing() -> None:
    code = "import sys; sys.modules['typer'] = None; from seam_client.command import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "seam: the command needs typer and rich: pip install 'seam-client[cli]'\n",
    )
