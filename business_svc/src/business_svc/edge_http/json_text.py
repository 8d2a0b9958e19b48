"""JSON as this edge writes it."""

import json
from typing import Any


def compact(value: Any) -> str:
    """On one line, without blanks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
