"""Answers as JSON, for scripts: dataclasses become objects, enums their values."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from typing import Any

from seam_client.answers import ChatEvent
from seam_client.errors import SeamError


def as_json(answer: Any, *, indent: int | None = None) -> str:
    """A dataclass, or a tuple of them."""
    plain = [asdict(one) for one in answer] if isinstance(answer, tuple) else asdict(answer)
    return _dump(plain, indent)


def event_as_json(event: ChatEvent) -> str:
    """One line: the event's kind, and its fields."""
    return _dump({"event": type(event).__name__.lower()} | asdict(event), None)


def error_as_json(error: SeamError) -> str:
    """One line."""
    told = {
        "code": error.code,
        "reason": error.reason,
        "message": error.message,
        "violations": [asdict(violation) for violation in error.violations],
        "retry_after": error.retry_after,
    }
    return _dump({"error": told}, None)


def report_as_json(settings: Mapping[str, Any], summaries: Sequence[Any]) -> str:
    """What was asked for, and a dataclass for each step."""
    return _dump({"settings": dict(settings), "steps": [asdict(summary) for summary in summaries]}, 2)


def _dump(plain: Any, indent: int | None) -> str:
    return json.dumps(plain, ensure_ascii=False, indent=indent, default=_enum_value)


def _enum_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"no JSON for {type(value).__name__}")
