"""What the business checks before it asks inference. Every violation names the caller's field and the limit.

A model that no replica has told of yet (None) has no limits known: the checks that need them are left to inference.
"""

import json
import math
from collections.abc import Iterator, Sequence

from business_svc.domain.inference import (
    Choice,
    EmbedRequest,
    GenerateRequest,
    JsonSchema,
    Message,
    Model,
    OutputDetail,
    OutputFormat,
    Regex,
    Replica,
    ReplicaState,
    Sampling,
    ScoreRequest,
    StopConditions,
    Task,
)
from business_svc.errors import FieldViolation, Reason, SeamError, bad_field

ROLES = ("system", "user", "assistant")
MAX_ENTRIES = 4096
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_BYTES = 256
MAX_LOGIT_BIASES = 1024
MAX_TOP_LOGPROBS = 20
MAX_SEED = 2**64 - 1
MAX_TOKENS = 2**31 - 1
MAX_TOKEN_ID = 2**32 - 1

Found = Iterator[tuple[Reason, FieldViolation]]


def served_model(models: Sequence[Model], replicas: Sequence[Replica], name: str, task: Task) -> Model | None:
    """The model of this name. None while a replica that may serve it is not heard of yet: inference will know.
    Raises MODEL_NOT_FOUND, TASK_NOT_SUPPORTED."""
    for model in models:
        if model.name == name:
            if model.task is not task:
                does = f"{name!r} does {model.task.value}, not {task.value}"
                raise bad_field("model", does, Reason.TASK_NOT_SUPPORTED)
            return model
    if not models or any(replica.state is ReplicaState.CONNECTING for replica in replicas):
        return None
    known = ", ".join(sorted(model.name for model in models))
    raise bad_field("model", f"no model {name!r} is served; there are: {known}", Reason.MODEL_NOT_FOUND)


def check_count(field: str, count: int, reason: Reason = Reason.TOO_MANY_TEXTS) -> None:
    """Messages or texts of one request, before any is looked at: a million of them would hold up everybody's answers.
    Raises `reason`."""
    if count > MAX_ENTRIES:
        raise bad_field(field, f"must be at most {MAX_ENTRIES} in one request, were {count}", reason)


def check_generate(request: GenerateRequest, model: Model | None) -> None:
    """Raises INVALID_FIELD, TEXT_EMPTY, INPUT_TOO_LONG."""
    _raise(
        [
            *_messages(request.messages, model),
            *_sampling(request.sampling),
            *_stop(request.stop, model),
            *_format(request.format),
            *_logprobs(request.detail),
        ]
    )


def check_embed(request: EmbedRequest, model: Model | None) -> None:
    """Raises INVALID_FIELD, TEXT_EMPTY, INPUT_TOO_LONG, TOO_MANY_TEXTS."""
    _count("texts", len(request.texts), model)
    found = [pair for index, text in enumerate(request.texts) for pair in _text(f"texts[{index}]", text, model)]
    most = (model.dimension_count if model else 0) or MAX_TOKENS
    found.extend(_within("dimension_count", request.dimension_count, 1, most))
    found.extend(_encodable("prompt_name", request.prompt_name, 0))
    _raise(found)


def check_score(request: ScoreRequest, model: Model | None) -> None:
    """Raises INVALID_FIELD, TEXT_EMPTY, INPUT_TOO_LONG, TOO_MANY_TEXTS."""
    _count("inputs", len(request.inputs), model)
    found: list[tuple[Reason, FieldViolation]] = []
    for index, scored in enumerate(request.inputs):
        found.extend(_text(f"inputs[{index}].text", scored.text, model))
        if scored.text_pair is not None:
            found.extend(_text(f"inputs[{index}].text_pair", scored.text_pair, model))
    _raise(found)


def check_predict_text(text: str, model: Model | None) -> None:
    """Raises INVALID_FIELD, TEXT_EMPTY, INPUT_TOO_LONG."""
    _raise(list(_text("text", text, model)))


def _raise(found: Sequence[tuple[Reason, FieldViolation]]) -> None:
    """One error for all violations, of their own reason where they agree."""
    if not found:
        return
    reasons = {reason for reason, _ in found}
    reason = reasons.pop() if len(reasons) == 1 else Reason.INVALID_FIELD
    violations = [violation for _, violation in found]
    first = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    raise SeamError(reason, f"{first.field}: {first.description}{more}", violations=violations)


def _bad(field: str, description: str, reason: Reason = Reason.INVALID_FIELD) -> Found:
    yield reason, FieldViolation(field, description)


def _count(field: str, count: int, model: Model | None) -> None:
    if count == 0:
        raise bad_field(field, "must have at least one", Reason.TEXT_EMPTY)
    if model is not None and model.max_texts and count > model.max_texts:
        limit = f"{model.name!r} takes at most {model.max_texts} in one request, was {count}"
        raise bad_field(field, limit, Reason.TOO_MANY_TEXTS)


def _text(field: str, text: str, model: Model | None) -> Found:
    if not text:
        yield from _bad(field, "must not be empty", Reason.TEXT_EMPTY)
        return
    yield from _encodable(field, text, model.max_text_bytes if model else 0)


def _encodable(field: str, text: str, max_bytes: int) -> Found:
    """Text must be Unicode that UTF-8 can carry, and not longer than `max_bytes` (0: no limit known)."""
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        yield from _bad(field, f"has half of a surrogate pair at character {error.start}")
        return
    if max_bytes and size > max_bytes:
        yield from _bad(field, f"must have at most {max_bytes} bytes, had {size}", Reason.INPUT_TOO_LONG)


def _messages(messages: Sequence[Message], model: Model | None) -> Found:
    if not messages:
        yield from _bad("messages", "must have at least one", Reason.TEXT_EMPTY)
        return
    for index, message in enumerate(messages):
        field = f"messages[{index}]"
        if message.role not in ROLES:
            yield from _bad(f"{field}.role", f"must be one of {', '.join(ROLES)}, was {message.role[:40]!r}")
        if message.content or message.role != "assistant":
            yield from _text(f"{field}.content", message.content, model)
    if messages[-1].role == "system":
        last = f"messages[{len(messages) - 1}].role"
        yield from _bad(last, "the last message must be the user's or the assistant's, was system")


def _within(field: str, value: float | None, low: float, high: float, *, open_low: bool = False) -> Found:
    if value is None:
        return
    if not math.isfinite(value) or value > high or value < low or (open_low and value == low):
        bound = f"above {low}" if open_low else f"at least {low}"
        limit = "finite" if math.isinf(high) else f"at most {high}"
        yield from _bad(field, f"must be {bound} and {limit}, was {value}")


def _token_id(field: str, token_id: int) -> Found:
    if not 0 <= token_id <= MAX_TOKEN_ID:
        yield from _bad(field, f"token ids must be at least 0 and at most {MAX_TOKEN_ID}, was {token_id}")


def _sampling(sampling: Sampling) -> Found:
    yield from _within("sampling.temperature", sampling.temperature, 0, 100)
    yield from _within("sampling.top_k", sampling.top_k, 0, MAX_TOKENS)
    yield from _within("sampling.top_p", sampling.top_p, 0, 1, open_low=True)
    yield from _within("sampling.min_p", sampling.min_p, 0, 1)
    yield from _within("sampling.repetition_penalty", sampling.repetition_penalty, 0, math.inf, open_low=True)
    yield from _within("sampling.presence_penalty", sampling.presence_penalty, -2, 2)
    yield from _within("sampling.frequency_penalty", sampling.frequency_penalty, -2, 2)
    if len(sampling.logit_bias) > MAX_LOGIT_BIASES:
        limit = f"must have at most {MAX_LOGIT_BIASES} entries, had {len(sampling.logit_bias)}"
        yield from _bad("sampling.logit_bias", limit)
        return
    for token_id, bias in sampling.logit_bias.items():
        yield from _token_id("sampling.logit_bias", token_id)
        yield from _within(f"sampling.logit_bias[{token_id}]", bias, -100, 100)
    if sampling.seed is not None and not 0 <= sampling.seed <= MAX_SEED:
        yield from _bad("sampling.seed", f"must be at least 0 and at most {MAX_SEED}, was {sampling.seed}")


def _stop(stop: StopConditions, model: Model | None) -> Found:
    most = model.max_context_tokens if model else MAX_TOKENS
    yield from _within("stop.max_output_tokens", stop.max_output_tokens, 1, most)
    yield from _within("stop.min_output_tokens", stop.min_output_tokens, 0, most)
    if (
        stop.max_output_tokens is not None
        and stop.min_output_tokens is not None
        and stop.min_output_tokens > stop.max_output_tokens >= 1
    ):
        limit = f"must be at most stop.max_output_tokens, {stop.max_output_tokens}, was {stop.min_output_tokens}"
        yield from _bad("stop.min_output_tokens", limit)
    for index, token_id in enumerate(stop.stop_token_ids):
        yield from _token_id(f"stop.stop_token_ids[{index}]", token_id)
    if len(stop.stop_strings) > MAX_STOP_STRINGS:
        limit = f"must have at most {MAX_STOP_STRINGS} strings, had {len(stop.stop_strings)}"
        yield from _bad("stop.stop_strings", limit)
        return
    for index, text in enumerate(stop.stop_strings):
        field = f"stop.stop_strings[{index}]"
        if not text:
            yield from _bad(field, "must not be empty")
        for _, violation in _encodable(field, text, MAX_STOP_STRING_BYTES):
            yield Reason.INVALID_FIELD, violation


def _format(output_format: OutputFormat | None) -> Found:
    match output_format:
        case JsonSchema(schema):
            try:
                json.loads(schema)
            except (ValueError, RecursionError) as error:
                yield from _bad("format.json_schema", f"must be JSON: {error}")
            else:
                yield from _encodable("format.json_schema", schema, 0)
        case Regex(pattern):
            if not pattern:
                yield from _bad("format.regex", "must not be empty")
            yield from _encodable("format.regex", pattern, 0)
        case Choice(texts):
            if not texts:
                yield from _bad("format.choice.texts", "must have at least one")
            for index, text in enumerate(texts):
                if not text:
                    yield from _bad(f"format.choice.texts[{index}]", "must not be empty")
                yield from _encodable(f"format.choice.texts[{index}]", text, 0)
        case None:
            pass


def _logprobs(detail: OutputDetail) -> Found:
    yield from _within("detail.top_logprob_count", detail.top_logprob_count, 0, MAX_TOP_LOGPROBS)
    if detail.top_logprob_count and not detail.logprobs:
        yield from _bad("detail.top_logprob_count", "needs logprobs to be true")
