"""The command `seam`. Only here are typer and rich imported (extra `cli`)."""

import os
import sys


def main() -> None:
    """The entry point: says how to install what is missing, else runs the command."""
    # gRPC's own notes about connections are not for the terminal; the command says what went wrong in its own words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from seam_client.command.app import app
    except ModuleNotFoundError as missing:
        if missing.name not in ("typer", "rich"):
            raise
        sys.exit("seam: the command needs typer and rich: pip install 'seam-client[cli]'")
    app()
