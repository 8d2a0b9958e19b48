"""Bodies of HTTP requests to the business's own words: what is honoured, what is ignored, what is refused."""

import json
from collections.abc import Mapping
from typing import Any

from business_svc.domain.checking import check_count
from business_svc.domain.fields import Renaming, by_prefix
from business_svc.domain.inference import (
    Choice,
    EmbedRequest,
    GenerateRequest,
    JsonSchema,
    Message,
    OutputDetail,
    OutputFormat,
    Regex,
    Sampling,
    ScoreInput,
    ScoreRequest,
    StopConditions,
    Truncation,
)
from business_svc.edge_http.schema import (
    Body,
    ChatCompletionBody,
    ChatMessage,
    EmbeddingsBody,
    PredictBody,
    ResponseFormat,
    ScoreBody,
)
from business_svc.errors import FieldViolation, Reason, SeamError, bad_field
from business_svc.usecases.predicting import PredictRequest

# OpenAI's own default, and what its clients expect who leave the field out; the gRPC contract's is greedy
DEFAULT_TEMPERATURE = 1.0

# OpenAI's fields that do not change an answer
IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "prediction", "parallel_tool_calls",
    }
)  # fmt: skip
# OpenAI's fields that would, with the values that ask for nothing
NOT_DONE: Mapping[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "web_search_options": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "moderation": (None,),
}
MESSAGE_NOT_DONE: Mapping[str, tuple[Any, ...]] = {
    "tool_calls": (None, []),
    "function_call": (None,),
    "audio": (None,),
}
MESSAGE_IGNORED = frozenset({"name", "refusal", "annotations"})

_SAMPLING_FIELDS = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "logit_bias", "seed",
)  # fmt: skip
_CHAT_FIELDS = by_prefix(
    [
        *((f"sampling.{name}", name) for name in _SAMPLING_FIELDS),
        ("stop.max_output_tokens", "max_completion_tokens"),
        ("stop.min_output_tokens", "min_tokens"),
        ("stop.stop_strings", "stop"),
        ("stop.stop_token_ids", "stop_token_ids"),
        ("stop.ignore_end_token", "ignore_eos"),
        ("format.json_schema", "response_format.json_schema.schema"),
        ("format.choice.texts", "response_format.choice"),
        ("format", "response_format"),
        ("detail.top_logprob_count", "top_logprobs"),
        ("detail.logprobs", "logprobs"),
    ]
)
EMBED_FIELDS = by_prefix([("texts", "input"), ("dimension_count", "dimensions")])


def chat_fields(body: ChatCompletionBody) -> Renaming:
    """Fields as this caller writes them."""

    def rename(path: str) -> str:
        name = _CHAT_FIELDS(path)
        is_older = name == "max_completion_tokens" and body.max_completion_tokens is None
        return "max_tokens" if is_older and body.max_tokens is not None else name

    return rename


def chat_request(body: ChatCompletionBody) -> GenerateRequest:
    """Raises INVALID_FIELD, FEATURE_NOT_AVAILABLE, INPUT_TOO_LONG."""
    check_count("messages", len(body.messages), Reason.INPUT_TOO_LONG)
    _only_known(body, "", IGNORED, NOT_DONE)
    if body.n is not None and body.n < 1:
        raise bad_field("n", f"must be at least 1, was {body.n}")
    if body.n not in (None, 1):
        raise bad_field("n", "only 1 answer a request is given", Reason.FEATURE_NOT_AVAILABLE)
    return GenerateRequest(
        model=body.model,
        messages=tuple(_message(f"messages[{index}]", message) for index, message in enumerate(body.messages)),
        sampling=Sampling(
            temperature=DEFAULT_TEMPERATURE if body.temperature is None else body.temperature,
            top_k=body.top_k,
            top_p=body.top_p,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias=body.logit_bias or {},
            seed=_seed(body.seed),
        ),
        stop=StopConditions(
            max_output_tokens=_max_tokens(body),
            min_output_tokens=body.min_tokens,
            stop_strings=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
            stop_token_ids=tuple(body.stop_token_ids or ()),
            ignore_end_token=bool(body.ignore_eos),
        ),
        format=_format(body.response_format),
        detail=OutputDetail(logprobs=bool(body.logprobs), top_logprob_count=body.top_logprobs or 0),
    )


def embed_request(body: EmbeddingsBody) -> EmbedRequest:
    """Raises INVALID_FIELD, FEATURE_NOT_AVAILABLE, TOO_MANY_TEXTS."""
    check_count("input", 1 if isinstance(body.input, str) else len(body.input))
    _only_known(body, "", IGNORED, {})
    if body.encoding_format not in (None, "float", "base64"):
        raise bad_field("encoding_format", "must be float or base64")
    texts = (body.input,) if isinstance(body.input, str) else tuple(body.input)
    if not all(isinstance(text, str) for text in texts):
        tokens = "token ids are not taken here, send text"
        raise bad_field("input", tokens, Reason.FEATURE_NOT_AVAILABLE)
    return EmbedRequest(
        model=body.model,
        texts=tuple(text for text in texts if isinstance(text, str)),
        truncation=_truncation(body.truncation),
        dimension_count=body.dimensions,
        prompt_name=body.prompt_name or "",
    )


def score_request(body: ScoreBody) -> ScoreRequest:
    """Raises INVALID_FIELD, TOO_MANY_TEXTS."""
    check_count("inputs", len(body.inputs))
    _only_known(body, "", IGNORED, {})
    for index, scored in enumerate(body.inputs):
        _only_known(scored, f"inputs[{index}].", frozenset(), {})
    inputs = tuple(ScoreInput(scored.text, scored.text_pair) for scored in body.inputs)
    return ScoreRequest(body.model, inputs, _truncation(body.truncation))


def predict_request(body: PredictBody) -> PredictRequest:
    """Raises INVALID_FIELD."""
    _only_known(body, "", frozenset(), {})
    return PredictRequest(body.text, body.max_output_tokens)


def _only_known(body: Body, path: str, ignored: frozenset[str], not_done: Mapping[str, tuple[Any, ...]]) -> None:
    for name, value in (body.model_extra or {}).items():
        if name in ignored:
            continue
        if name not in not_done:
            raise bad_field(f"{path}{name}"[:200], "no such field here")
        if value not in not_done[name]:
            raise bad_field(f"{path}{name}", "is not done here", Reason.FEATURE_NOT_AVAILABLE)


def _message(path: str, message: ChatMessage) -> Message:
    _only_known(message, f"{path}.", MESSAGE_IGNORED, MESSAGE_NOT_DONE)
    role = "system" if message.role == "developer" else message.role
    if role in ("tool", "function"):
        raise bad_field(f"{path}.role", f"{role} messages are not done here", Reason.FEATURE_NOT_AVAILABLE)
    return Message(role, _content(f"{path}.content", message))


def _content(path: str, message: ChatMessage) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    for index, part in enumerate(message.content):
        if part.type != "text":
            only = f"only parts of type text are taken, was {part.type[:40]!r}"
            raise bad_field(f"{path}[{index}].type", only, Reason.FEATURE_NOT_AVAILABLE)
        if part.text is None:
            raise bad_field(f"{path}[{index}].text", "must be set")
    return "".join(part.text or "" for part in message.content)


def _max_tokens(body: ChatCompletionBody) -> int | None:
    if body.max_completion_tokens is None:
        return body.max_tokens
    if body.max_tokens not in (None, body.max_completion_tokens):
        raise bad_field("max_tokens", f"differs from max_completion_tokens, {body.max_completion_tokens}")
    return body.max_completion_tokens


def _seed(seed: int | None) -> int | None:
    """OpenAI's seeds are signed; ours are not: a negative one is its two's complement."""
    if seed is not None and -(2**63) <= seed < 0:
        return seed + 2**64
    return seed


def _format(asked: ResponseFormat | None) -> OutputFormat | None:
    """A form that is given beside the one that `type` names is refused: the answer would not be held to it."""
    if asked is None:
        return None
    _only_known(asked, "response_format.", frozenset(), {})
    for name, form in (("json_schema", asked.json_schema), ("regex", asked.regex), ("choice", asked.choice)):
        if form is not None and name != asked.type:
            raise bad_field(f"response_format.{name}", f"goes with type {name}, was {asked.type[:40]!r}")
    match asked.type:
        case "text":
            return None
        case "json_object":
            return JsonSchema('{"type":"object"}')
        case "json_schema":
            schema = asked.json_schema.schema_ if asked.json_schema else None
            if schema is None:
                raise bad_field("response_format.json_schema.schema", "must be set")
            return JsonSchema(_schema_text(schema))
        case "regex":
            return Regex(asked.regex or "")
        case "choice":
            return Choice(tuple(asked.choice or ()))
        case other:
            raise bad_field("response_format.type", f"no such type, was {other[:40]!r}")


def _schema_text(schema: dict[str, Any]) -> str:
    try:
        return json.dumps(schema, allow_nan=False)
    except ValueError as error:
        raise bad_field("response_format.json_schema.schema", f"must be JSON: {error}") from error


def _truncation(name: str | None) -> Truncation:
    try:
        return Truncation(name or "refuse")
    except ValueError:
        raise bad_field("truncation", f"must be refuse or drop_end, was {str(name)[:40]!r}") from None


def validation_error(errors: list[Any]) -> SeamError:
    """What FastAPI found wrong with the shape of a body."""
    if any(found["type"] == "json_invalid" for found in errors):
        found = errors[0]
        where = found["loc"][-1] if found["loc"] else 0
        said = found.get("ctx", {}).get("error", found["msg"])
        return SeamError(Reason.INVALID_FIELD, f"the body is not JSON: {said} at character {where}")
    violations = [FieldViolation(_path(found["loc"]), str(found["msg"])) for found in errors[:16]]
    first = violations[0]
    return SeamError(Reason.INVALID_FIELD, f"{first.field}: {first.description}", violations=violations)


def _path(loc: tuple[int | str, ...]) -> str:
    """`("body", "messages", 0, "content", "str")` is `messages[0].content`: steps that name a type are left out."""
    path = ""
    for step in loc[1:]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isidentifier() and step.islower() and step not in ("str", "int", "float", "bool"):
            path += f".{step}" if path else step
    return path or "body"
