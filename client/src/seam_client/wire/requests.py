"""Builds the contract's requests from the caller's words.

What cannot be put into a message (a negative count, half a character, a word where a number belongs) raises
InvalidRequest with the caller's own name of the field, without a call.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message as Proto
from seam.business.v1 import (
    chat_service_pb2,
    conversation_pb2,
    embedding_service_pb2,
    operations_service_pb2,
    predict_service_pb2,
    score_service_pb2,
)

from seam_client.asking import ChatSettings, Message, Messages, ScoreText
from seam_client.errors import FieldViolation, InvalidRequest

_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
)
_STOP = ("max_output_tokens", "min_output_tokens", "stop_strings", "stop_token_ids", "ignore_end_token")
_DETAIL = ("logprobs", "top_logprob_count", "token_ids")


def chat_request(messages: Messages, settings: ChatSettings) -> chat_service_pb2.ChatRequest:
    """Raises TypeError for a setting that does not exist, InvalidRequest for a value that cannot be sent."""
    unknown = set(settings) - ChatSettings.__optional_keys__
    if unknown:
        raise TypeError(f"chat() has no setting {', '.join(sorted(unknown))}")
    request = chat_service_pb2.ChatRequest()
    _fill(request, {"model": settings.get("model")})
    turns = list(_turns(messages))
    system = settings.get("system")
    if system is not None:
        turns.insert(0, ("system", system))
    for number, (role, content) in enumerate(turns):
        _fill(request.messages.add(), {"role": role, "content": content}, f"messages[{number}].")
    _fill_group(request.sampling, settings, _SAMPLING)
    _fill_group(request.stop, settings, _STOP)
    _fill_group(request.detail, settings, _DETAIL)
    _fill_format(request.format, settings)
    return request


def predict_request(text: str, max_output_tokens: int | None) -> predict_service_pb2.PredictRequest:
    request = predict_service_pb2.PredictRequest()
    _fill(request, {"text": text, "max_output_tokens": max_output_tokens})
    return request


def embed_request(
    texts: str | Iterable[str], model: str, truncate: bool, dimension_count: int | None, prompt_name: str
) -> embedding_service_pb2.EmbedRequest:
    request = embedding_service_pb2.EmbedRequest(truncation=_truncation(truncate))
    _fill(
        request,
        {
            "model": model,
            "texts": [texts] if isinstance(texts, str) else list(texts),
            "dimension_count": dimension_count,
            "prompt_name": prompt_name,
        },
    )
    return request


def score_request(inputs: Iterable[ScoreText], model: str, truncate: bool) -> score_service_pb2.ScoreRequest:
    request = score_service_pb2.ScoreRequest(truncation=_truncation(truncate))
    _fill(request, {"model": model})
    for number, given in enumerate([inputs] if isinstance(inputs, str) else inputs):
        text, pair = (given, None) if isinstance(given, str) else given
        _fill(request.inputs.add(), {"text": text, "text_pair": pair}, f"inputs[{number}].")
    return request


def models_request(page_token: str = "") -> operations_service_pb2.ListModelsRequest:
    return operations_service_pb2.ListModelsRequest(page_token=page_token)


def status_request() -> operations_service_pb2.GetStatusRequest:
    return operations_service_pb2.GetStatusRequest()


def check_size(request: Proto, limit: int) -> None:
    """Raises InvalidRequest when the request is over `limit` bytes; the server would drop it without reading it."""
    size = request.ByteSize()
    if size > limit:
        said = f"the request is {size} bytes, the limit is {limit}: send it in parts"
        raise InvalidRequest("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE", said, (FieldViolation("request", said),))


def _turns(messages: Messages) -> Iterable[tuple[Any, Any]]:
    if isinstance(messages, str):
        return [("user", messages)]
    if isinstance(messages, Message):
        return [(messages.role, messages.content)]
    return [(m.role, m.content) if isinstance(m, Message) else _turn(n, m) for n, m in enumerate(messages)]


def _turn(number: int, message: Mapping[str, str]) -> tuple[str, str]:
    if set(message) != {"role", "content"}:
        raise _invalid(f"messages[{number}]", f"has {sorted(message)}, wants role and content")
    return message["role"], message["content"]


def _fill(target: Any, values: Mapping[str, Any], path: str = "") -> None:
    """Sets the fields that have a value; lists and maps are copied."""
    for name, value in values.items():
        if value is None:
            continue
        try:
            if isinstance(value, Mapping):
                getattr(target, name).update(value)
            elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
                getattr(target, name).extend(value)
            else:
                setattr(target, name, value)
        except (ValueError, TypeError) as unfit:
            raise _invalid(path + name, f"cannot be {_short(value)} ({unfit})") from unfit


def _fill_group(target: Any, settings: ChatSettings, names: Sequence[str]) -> None:
    given: dict[str, Any] = {name: settings.get(name) for name in names}
    if isinstance(given.get("stop_strings"), str):
        given["stop_strings"] = [given["stop_strings"]]
    _fill(target, given)


def _fill_format(target: conversation_pb2.OutputFormat, settings: ChatSettings) -> None:
    schema, regex, choices = settings.get("json_schema"), settings.get("regex"), settings.get("choices")
    if sum(form is not None for form in (schema, regex, choices)) > 1:
        raise _invalid("json_schema, regex, choices", "at most one of them can be asked for")
    _fill(target, {"json_schema": json.dumps(schema) if isinstance(schema, Mapping) else schema, "regex": regex})
    if choices is not None:
        target.choice.SetInParent()
        _fill(target.choice, {"texts": list(choices)}, "choices.")


def _truncation(truncate: bool) -> embedding_service_pb2.Truncation.ValueType:
    return embedding_service_pb2.TRUNCATION_DROP_END if truncate else embedding_service_pb2.TRUNCATION_REFUSE


def _invalid(field: str, description: str) -> InvalidRequest:
    violation = FieldViolation(field, description)
    return InvalidRequest("INVALID_ARGUMENT", "INVALID_FIELD", f"{field}: {description}", (violation,))


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
