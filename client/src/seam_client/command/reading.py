"""Where texts come from: arguments, standard input, files."""

import sys
from collections.abc import Sequence
from pathlib import Path

from seam_client.command.pointing import UsageError


def one_text(argument: str | None) -> str:
    """The argument; `-`, or none when input is piped, reads standard input to its end."""
    if argument is None and sys.stdin.isatty():
        raise UsageError("no text: give it as an argument, or `-` to read standard input")
    if argument is None or argument == "-":
        return sys.stdin.read().rstrip("\n")
    return argument


def texts(arguments: Sequence[str], file: Path | None) -> list[str]:
    """The arguments, then the file's lines; `-` stands for the lines of standard input. Blank lines are passed over."""
    found: list[str] = []
    for argument in arguments:
        found += _lines(sys.stdin.read()) if argument == "-" else [argument]
    if file is not None:
        try:
            found += _lines(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as unreadable:
            raise UsageError(f"--file {file}: {unreadable}") from unreadable
    if not arguments and file is None:
        if sys.stdin.isatty():
            raise UsageError("no texts: give them as arguments, with --file, or `-` to read standard input")
        found = _lines(sys.stdin.read())
    if not found:
        raise UsageError("no texts: the input is empty")
    return found


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]
