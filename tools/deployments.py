"""What lies under deploy/ and is made from something else: `python tools/deployments.py` writes it anew."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RENDER = ROOT / "deploy/envoy/render.py"
# Each place has Envoy's files in /etc/envoy, and business servers under the name `business`.
PLACES = {
    "deploy/compose/edge": ["--listen", "0.0.0.0:8080"],
    "deploy/k8s/edge": [
        *("--listen", "0.0.0.0:8443"),
        *("--certificate", "/etc/seam/edge/tls.crt", "--key", "/etc/seam/edge/tls.key"),
        *("--business-ca", "/etc/seam/business/ca.crt", "--business-identity", "business"),
        *("--shown-certificate", "/etc/seam/business/tls.crt", "--shown-key", "/etc/seam/business/tls.key"),
    ],
}


def write(root: Path) -> list[Path]:
    """Returns what it wrote."""
    written = []
    for place, options in PLACES.items():
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, RENDER, "--out", folder, "--at", "/etc/envoy", *options]
            subprocess.run(words, check=True)
            (root / place).mkdir(parents=True, exist_ok=True)
            for made in sorted(Path(folder).iterdir()):
                (root / place / made.name).write_bytes(made.read_bytes())
                written.append(root / place / made.name)
    return written


def stale() -> str | None:
    """What differs from what would be written."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = {path.relative_to(folder): path.read_bytes() for path in write(Path(folder))}
    differing = [str(n) for n, now in fresh.items() if not (ROOT / n).exists() or (ROOT / n).read_bytes() != now]
    if not differing:
        return None
    return "\n".join([*(f"stale: {name}" for name in differing), "python tools/deployments.py writes them anew"])


if __name__ == "__main__":
    write(ROOT)
