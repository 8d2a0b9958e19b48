"""Whose field it was: paths of bad fields, told in the words of the request that the caller wrote."""

import re
from collections.abc import Callable, Sequence

from business_svc.errors import FieldViolation, SeamError

Renaming = Callable[[str], str]

# inference speaks of its own messages; the business contract has the same fields without these steps
_INFERENCE_STEPS = ("work.prompt.chat.", "work.prompt.", "work.", "prompt.chat.", "generate.", "embed.", "score.")

_WHOLE_PROMPT = frozenset({"work.prompt", "work.prompt.chat", "prompt", "prompt.chat"})


def from_inference(path: str) -> str:
    """`work.sampling.top_p` was `sampling.top_p`, and the prompt is what all messages make."""
    if path in _WHOLE_PROMPT:
        return "messages"
    for steps in _INFERENCE_STEPS:
        if path.startswith(steps):
            return path.removeprefix(steps)
    return path


def without_first_messages(count: int) -> Renaming:
    """Paths as they were before `count` messages were put in front."""

    def rename(path: str) -> str:
        found = re.match(r"messages\[(\d+)\](.*)", path)
        if found is None or int(found[1]) < count:
            return path
        return f"messages[{int(found[1]) - count}]{found[2]}"

    return rename


def by_prefix(table: Sequence[tuple[str, str]]) -> Renaming:
    """The first prefix of `table` that ends a path or one of its steps is replaced."""

    def rename(path: str) -> str:
        for old, new in table:
            if path == old or (path.startswith(old) and path[len(old)] in ".["):
                return new + path[len(old) :]
        return path

    return rename


def renamed(error: SeamError, *renamings: Renaming) -> SeamError:
    """The same error about the caller's own fields; a message that began with the old path begins with the new one."""
    message = error.message
    violations = []
    for violation in error.violations:
        path = violation.field
        for rename in renamings:
            path = rename(path)
        message = message.replace(f"{violation.field}: ", f"{path}: ", 1)
        violations.append(FieldViolation(path, violation.description))
    return SeamError(error.reason, message, violations=violations, retry_after=error.retry_after)
