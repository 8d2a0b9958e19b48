"""Write constraints.txt from what this environment holds."""

import subprocess
import sys
from pathlib import Path

HEADING = "# What the project was tested with. Regenerate: make freeze.\n"


def main() -> None:
    words = [
        sys.executable,
        "-m",
        "pip",
        "list",
        "--format=freeze",
        "--exclude-editable",
        "--disable-pip-version-check",
    ]
    listed = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    pins = sorted(
        line.partition("+")[0] for line in listed if not line.startswith(("pip==", "setuptools==", "wheel=="))
    )
    Path("constraints.txt").write_text(HEADING + "".join(f"{pin}\n" for pin in pins))


if __name__ == "__main__":
    main()
