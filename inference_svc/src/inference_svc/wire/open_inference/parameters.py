"""What is asked beside the tensors: named values, from a message's parameters or from a JSON text."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from inference import open_inference_pb2 as pb

from inference_svc.errors import InputTooLong, InvalidField
from inference_svc.wire.open_inference.tensors import SHOWN

_FLAGS = {"true": True, "false": False}


def values_of(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidField.of_field(name[:SHOWN], "has no value")
        values[name] = getattr(parameter, choice)
    return values


def read_json(field: str, text: str, max_bytes: int) -> Any:
    """Raises InvalidField where it is no JSON, or has half a character in an escape; InputTooLong."""
    if len(text) > max_bytes:
        raise InputTooLong.of_field(field, f"is over the limit of {max_bytes} bytes")
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidField.of_field(field, f"is no JSON that can be read: {str(error)[:SHOWN]}") from None
    return value


class Given:
    """Values by name. Each is taken where it has its meaning; one that nobody took is refused, so that nothing which a
    caller asks for is silently left out. Numbers and flags may come as text, as some clients send them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        self._known: list[str] = []

    def take(self, name: str) -> Any:
        """None where it is not there. JSON's null is as nothing."""
        self._known.append(name)
        return self._values.pop(name, None)

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise InvalidField.of_field(name, "must be a text")
        return value

    def flag(self, name: str) -> bool | None:
        value = self.take(name)
        if isinstance(value, str):
            value = _FLAGS.get(value.lower(), value)
        if value is not None and not isinstance(value, bool):
            raise InvalidField.of_field(name, "must be true or false")
        return value

    def number(self, name: str) -> float | None:
        value = self.take(name)
        return None if value is None else number_of(name, value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        value = self.take(name)
        return None if value is None else integer_of(name, value, low, high)

    def check_all_taken(self) -> None:
        for name in self._values:
            known = ", ".join(self._known)
            raise InvalidField.of_field(name[:SHOWN], f"is not known here: there is {known}")


def number_of(field: str, value: Any) -> float:
    with suppress(ValueError, OverflowError):
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)
    raise InvalidField.of_field(field, "must be a number")


def integer_of(field: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, str) and len(value) <= SHOWN:
        with suppress(ValueError):
            value = int(value)
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidField.of_field(field, "must be a whole number")
    if not low <= value <= high:
        raise InvalidField.of_field(field, f"must be in [{low}, {high}]")
    return value
