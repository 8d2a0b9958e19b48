"""How sessions are recorded."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RecorderSettings:
    """`plain` shows texts as they are. `key` makes digests that whoever has it too can match. A file has at most about
    `file_bytes`, and the folder at most `file_count` recordings: the oldest make room."""

    folder: Path
    plain: bool = False
    key: str = ""
    file_bytes: int = 64 * 1024 * 1024
    file_count: int = 16
