"""Where a replica may be: "host:port", "[ipv6]:port" or "unix:/path"."""

import re

UNIX = "unix:"
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\],]+):(\d{1,5})")


def checked_address(entry: str) -> str:
    """Raises ValueError with the entry."""
    if is_unix(entry):
        if entry.removeprefix(UNIX).startswith("/"):
            return entry
        raise ValueError(f"must be unix:/path, was {entry!r}")
    match = _HOST_AND_PORT.fullmatch(entry)
    if match is None or not 0 < int(match[2]) <= 65535:
        raise ValueError(f"must be host:port, unix:/path, dns:///name:port or file:///path, was {entry!r}")
    return entry


def is_unix(address: str) -> bool:
    return address.startswith(UNIX)
