"""How a generation is asked for in the field's words (vLLM's SamplingParams), read into the words inside."""

import json
from typing import Any

from inference_svc.errors import InvalidField
from inference_svc.requests import Choice, JsonSchema, OutputFormat, Regex, Sampling, StopConditions
from inference_svc.wire.open_inference.parameters import Given, integer_of, number_of

_MAX_UINT32 = (1 << 32) - 1
_MAX_UINT64 = (1 << 64) - 1
_FORMATS = "structured_outputs"


def read_sampling(given: Given) -> Sampling:
    neutral = Sampling()
    return Sampling(
        temperature=_or(given.number("temperature"), neutral.temperature),
        top_k=max(given.integer("top_k", -1, _MAX_UINT32) or 0, 0),  # -1 keeps all, as 0 does
        top_p=_or(given.number("top_p"), neutral.top_p),
        min_p=_or(given.number("min_p"), neutral.min_p),
        repetition_penalty=_or(given.number("repetition_penalty"), neutral.repetition_penalty),
        presence_penalty=_or(given.number("presence_penalty"), neutral.presence_penalty),
        frequency_penalty=_or(given.number("frequency_penalty"), neutral.frequency_penalty),
        logit_bias=_read_bias(given.take("logit_bias")),
        seed=given.integer("seed", 0, _MAX_UINT64),
    )


def read_stop(given: Given) -> StopConditions:
    return StopConditions(
        max_output_tokens=given.integer("max_tokens", 0, _MAX_UINT32),
        min_output_tokens=given.integer("min_tokens", 0, _MAX_UINT32) or 0,
        stop_strings=_read_strings("stop", given.take("stop")),
        stop_token_ids=tuple(
            integer_of(f"stop_token_ids[{index}]", token_id, 0, _MAX_UINT32)
            for index, token_id in enumerate(_list("stop_token_ids", given.take("stop_token_ids")))
        ),
        ignore_end_token=given.flag("ignore_eos") or False,
    )


def read_format(given: Given) -> OutputFormat | None:
    asked = given.take(_FORMATS)
    if asked is None:
        return None
    if not isinstance(asked, dict) or len(asked) != 1:
        raise InvalidField.of_field(_FORMATS, "must have one of json, regex and choice")
    ((kind, value),) = asked.items()
    field = f"{_FORMATS}.{kind[:16]}"
    match kind:
        case "json":
            return JsonSchema(value if isinstance(value, str) else json.dumps(value))
        case "regex" if isinstance(value, str):
            return Regex(value)
        case "choice":
            return Choice(_read_strings(field, value))
        case _:
            raise InvalidField.of_field(field, "must be json, regex with a text, or choice with a list of texts")


def _read_bias(value: Any) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidField.of_field("logit_bias", "must be an object: token ids and what is added")
    return {
        integer_of("logit_bias", token_id, 0, _MAX_UINT32): number_of(f"logit_bias[{token_id[:16]}]", bias)
        for token_id, bias in value.items()
    }


def _read_strings(field: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else _list(field, value)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidField.of_field(f"{field}[{index}]", "must be a text")
    return tuple(texts)


def _list(field: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidField.of_field(field, "must be a list")
    return value


def _or(value: float | None, neutral: float) -> float:
    return neutral if value is None else value
