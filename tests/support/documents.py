"""Commands as documents show them."""

import re
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return [code for found, code in _BLOCK.findall(document.read_text(encoding="utf-8")) if found == language]


def commands(block: str) -> list[str]:
    """The commands of a block of shell, each with its continued lines joined."""
    return [line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]
