"""A format as the grammar library reads it, and what the library finds wrong with one, told in the contract's words."""

import json
import re
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher, regex_to_lark

from inference_svc.errors import InvalidField, SeamError
from inference_svc.requests import Choice, JsonSchema, OutputFormat, Regex

_HEAD = '%llguidance {"no_forcing": true}\n'
"""Without it the library allows only its own tokenisation where the text is certain; so every one is allowed."""

_WHITESPACE = r"[ \t\r\n]{0,32}"
"""Between the parts of a JSON text; bounded, for a model may like nothing better than one more newline."""

_TRIALS = 200  # parts of a bad schema that are looked at to find the one at fault
_TOLD = 300  # characters of what the library says


def field_of(output_format: OutputFormat) -> str:
    match output_format:
        case JsonSchema():
            return "work.format.json_schema"
        case Regex():
            return "work.format.regex"
        case Choice():
            return "work.format.choice.texts"


def grammar_text(output_format: OutputFormat, strips_space: bool) -> str:
    r"""Raises InvalidField for a schema that is not JSON. In a pattern \d, \w and \s are ASCII's, as a reader of
    structured text expects. `strips_space`: the reader is not shown an answer's first
    space, so a text that begins with none may be written with one."""
    match output_format:
        case JsonSchema(text):
            space = '" "? ' if strips_space else ""
            return f"{_HEAD}start: {space}value\nvalue: %json {json.dumps(_schema(text))}"
        case Regex(pattern):
            body = f"/{regex_to_lark(_without_ends(pattern), 'dws')}/"
        case Choice(texts):
            body = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    if strips_space:
        return f'{_HEAD}start: SHOWN\nSHOWN: (" " BODY) | (BODY & /([^ ](.|\\n)*)?/)\nBODY: {body}'
    return f"{_HEAD}start: BODY\nBODY: {body}"


def refusal(output_format: OutputFormat, said: str) -> SeamError:
    """The error of a format that the library refuses, in which it `said` why."""
    field = field_of(output_format)
    match output_format:
        case JsonSchema(text):
            why = _schema_fault(said)
            place = _place_of(_schema(text), why)
            return InvalidField.of_field(field, f"{why}, at {place}" if place else why)
        case Regex(pattern):
            return InvalidField.of_field(field, _regex_fault(pattern, said))
        case Choice():
            return InvalidField.of_field(field, _shortened(said))


def _schema(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
        json.dumps(schema, allow_nan=False)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise InvalidField.of_field("work.format.json_schema", f"is not JSON: {error.msg}, at {place}") from error
    except (RecursionError, ValueError) as error:
        raise InvalidField.of_field("work.format.json_schema", f"is not JSON that can be read: {error}") from error
    if schema is True:
        schema = {}
    if schema is False:
        raise InvalidField.of_field("work.format.json_schema", "false allows no answer")
    if not isinstance(schema, dict):
        raise InvalidField.of_field("work.format.json_schema", "must be an object, true or false")
    return _with_options(schema)


def _with_options(schema: dict[str, Any]) -> dict[str, Any]:
    """Ours, whatever the schema itself asks of the library: unknown keywords are refused, never left out."""
    return {**schema, "x-guidance": {"whitespace_pattern": _WHITESPACE, "lenient": False, "coerce_one_of": False}}


def _without_ends(pattern: str) -> str:
    """The whole answer is matched anyway; `^` and `$` around a pattern say just that."""
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$") and (len(pattern) - len(pattern[:-1].rstrip("\\")) - 1) % 2 == 0:
        pattern = pattern[:-1]
    return pattern


def _regex_fault(pattern: str, said: str) -> str:
    """Asked again with the pattern as it came, for its caret to tell the place."""
    inside = _without_ends(pattern)
    again = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(inside, '')}/"))
    why = re.search(r"^error: (.*)$", again, re.MULTILINE)
    caret = re.search(r"^ {4}( *)\^+$", again, re.MULTILINE)
    if why and caret:
        written = (at for at in range(len(inside)) if len(regex_to_lark(inside[:at], "")) >= len(caret[1]))
        at = next(written, len(inside)) + pattern.startswith("^")
        return f"{why[1]}, at character {at}"
    unsupported = re.search(r"lookarounds not supported yet; (\w+)", said)
    if unsupported:
        return f"assertions such as ^, $ and \\b inside a pattern are not supported: {unsupported[1]}"
    return _shortened(why[1] if why else said)


def _schema_fault(said: str) -> str:
    told = said.partition("failed to compile JSON schema: ")[2] or said
    why = re.search(r"^error: (.*)$", told, re.MULTILINE)
    return f"pattern: {why[1]}" if why and "regex parse error" in told else _shortened(told)


def _shortened(said: str) -> str:
    return said.strip().partition("\n")[0][:_TOLD]


def _place_of(schema: dict[str, Any], why: str) -> str:
    """JSON pointer of the deepest part that is refused for the same reason; "" for the whole."""
    place, left = "", _TRIALS
    definitions: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}

    def is_at_fault(part: dict[str, Any]) -> bool:
        text = f"start: %json {json.dumps(_with_options({**definitions, **part}))}"
        return _schema_fault(LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(text))) == why

    while left > 0:
        for name, part in _parts(schema):
            left -= 1
            if left < 0 or is_at_fault(part):
                place, schema = place + name, part
                break
        else:
            return place
    return place


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas right inside a schema, with their pointers."""
    for key, value in schema.items():
        name = f"/{_escaped(key)}"
        if key in {"properties", "patternProperties", "$defs", "definitions"} and isinstance(value, dict):
            yield from ((f"{name}/{_escaped(each)}", part) for each, part in value.items() if isinstance(part, dict))
        elif key in {"items", "additionalProperties", "additionalItems", "not"} and isinstance(value, dict):
            yield name, value
        elif key in {"anyOf", "oneOf", "allOf", "prefixItems", "items"} and isinstance(value, list):
            yield from ((f"{name}/{index}", part) for index, part in enumerate(value) if isinstance(part, dict))


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
