"""The ready file: what serves, and where; there when everything serves, gone when it does not."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Ready:
    """Addresses are host:port. `inference_pids` are the inference processes that were started, in the order of the
    first addresses of `inference`; what follows runs in the business process or was joined. `metrics` are those of the
    business first."""

    grpc: str
    http: str
    inference: tuple[str, ...]
    business_pid: int
    inference_pids: tuple[int, ...]
    api_key: str
    metrics: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The shape that the README documents."""
        return {
            "grpc": self.grpc,
            "http": self.http,
            "inference": list(self.inference),
            "pids": {"business": self.business_pid, "inference": list(self.inference_pids)},
            "api_key": self.api_key,
            "metrics": list(self.metrics),
        }


def write_ready(path: Path, content: Mapping[str, Any]) -> None:
    """At once or not at all, and for this user's eyes only: it holds an API key."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.write("\n")
    draft.replace(path)


def forget_ready(path: Path) -> None:
    """Nothing serves there, whatever an earlier life wrote."""
    path.unlink(missing_ok=True)


def read_ready(path: Path) -> dict[str, Any] | None:
    """What a child wrote; None while it has not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content if isinstance(content, dict) else None
