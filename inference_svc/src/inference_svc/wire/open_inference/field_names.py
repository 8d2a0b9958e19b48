"""Errors speak of the contract's fields; callers of this protocol are told of their tensors and parameters."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from inference_svc.errors import FieldViolation, SeamError

_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"work\.texts", "text"),
        (r"work\.inputs(\[\d+\])\.text_pair", r"text_pair\1"),
        (r"work\.inputs(\[\d+\])\.text", r"text\1"),
        (r"work\.inputs", "text"),
        (r"work\.dimension_count", "dimensions"),
        (r"work\.prompt\.text", "text_input"),
        (r"work\.prompt\.chat(\.messages)?", "messages"),
        (r"work\.sampling\.", ""),
        (r"work\.stop\.max_output_tokens", "max_tokens"),
        (r"work\.stop\.min_output_tokens", "min_tokens"),
        (r"work\.stop\.stop_strings", "stop"),
        (r"work\.stop\.ignore_end_token", "ignore_eos"),
        (r"work\.stop\.", ""),
        (r"work\.format\.json_schema", "structured_outputs.json"),
        (r"work\.format\.choice\.texts", "structured_outputs.choice"),
        (r"work\.format", "structured_outputs"),
        (r"work\.", ""),
        (r"context\.", ""),
        (r"spec\.name", "model_name"),
        (r"spec\.", "config.parameters."),
        (r"model(?=:|$)", "model_name"),
    )
)


@contextmanager
def naming_tensors(prompt: str = "text_input") -> Iterator[None]:
    """What is raised inside names its fields as this protocol does; `prompt` is the tensor that the prompt came in."""
    try:
        yield
    except SeamError as error:
        violations = [FieldViolation(_named(each.field, prompt), each.description) for each in error.violations]
        raise type(error)(
            _named(error.message, prompt), violations=violations, retry_after=error.retry_after
        ) from error


def _named(words: str, prompt: str) -> str:
    """The field at the beginning of the words; words that begin with none stay as they are."""
    if re.match(r"work\.prompt(?![.\w])", words):
        return prompt + words.removeprefix("work.prompt")
    for pattern, name in _NAMES:
        renamed, count = pattern.subn(name, words, count=1) if pattern.match(words) else (words, 0)
        if count:
            return renamed
    return words
