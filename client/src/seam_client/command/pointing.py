"""Decides which server is asked, with which key: from flags, the ready file of `seam-up`, and the environment."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from seam_client.connection import DEFAULT_TARGET, DEFAULT_TIMEOUT, Tls
from seam_client.sync_client import Seam


class UsageError(Exception):
    """The command line, or a file that it names, cannot be used."""


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line said; None is silence. They may stand before the subcommand or after it."""

    target: str | None = None
    api_key: str | None = None
    ready_file: Path | None = None
    timeout: float | None = None
    json: bool | None = None
    plaintext: bool | None = None
    tls: bool | None = None
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    def over(self, earlier: "Flags | None") -> "Flags":
        """These, and the earlier ones where these are silent."""
        if earlier is None:
            return self
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return Flags(**({f.name: getattr(earlier, f.name) for f in fields(self)} | said))


@dataclass(frozen=True, slots=True)
class Pointed:
    """A server and the key for it."""

    target: str
    api_key: str | None


def pointed(flags: Flags, environment: Mapping[str, str]) -> Pointed:
    """Target: --target, --ready-file, SEAM_TARGET, SEAM_READY_FILE, else this machine's default port.
    Key: --api-key, else the ready file's where it named the target, else SEAM_API_KEY. So the key of a ready file never
    goes to another server. Raises UsageError for a ready file that cannot be read.
    """
    env_target, env_file = environment.get("SEAM_TARGET"), environment.get("SEAM_READY_FILE")
    env_key = environment.get("SEAM_API_KEY")
    if flags.target:
        return Pointed(flags.target, flags.api_key or env_key)
    if flags.ready_file is None and env_target:
        return Pointed(env_target, flags.api_key or env_key)
    file = flags.ready_file or (Path(env_file) if env_file else None)
    if file is None:
        return Pointed(DEFAULT_TARGET, flags.api_key or env_key)
    target, key = _read(file)
    return Pointed(target, flags.api_key or key or env_key)


def client(flags: Flags, environment: Mapping[str, str]) -> tuple[Seam, str]:
    """The client, and its server as people write it. Raises UsageError."""
    server = pointed(flags, environment)
    try:
        seam = Seam(
            server.target,
            api_key=server.api_key,
            timeout=DEFAULT_TIMEOUT if flags.timeout is None else flags.timeout,
            **encryption(flags),
        )
    except (ValueError, OSError) as unfit:
        raise UsageError(str(unfit)) from unfit
    return seam, server.target


def encryption(flags: Flags) -> dict[str, Any]:
    """The arguments of that name of `connection()`, and of the clients."""
    return {"tls": _tls(flags), "plaintext": bool(flags.plaintext)}


def _tls(flags: Flags) -> Tls | bool:
    if flags.tls_ca or flags.tls_certificate or flags.tls_key:
        return Tls(ca_file=flags.tls_ca, certificate_file=flags.tls_certificate, key_file=flags.tls_key)
    return bool(flags.tls)


def _read(file: Path) -> tuple[str, str | None]:
    try:
        told: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as unreadable:
        raise UsageError(f"ready file {file}: {unreadable.strerror}: is the server up?") from unreadable
    except ValueError as malformed:
        raise UsageError(f"ready file {file}: not JSON: {malformed}") from malformed
    if not isinstance(told, dict) or not isinstance(told.get("grpc"), str):
        raise UsageError(f'ready file {file}: has no "grpc": "HOST:PORT"')
    key = told.get("api_key")
    return told["grpc"], key if isinstance(key, str) else None
