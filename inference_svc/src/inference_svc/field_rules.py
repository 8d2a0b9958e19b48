"""What the contract allows in each field, whatever the model's words are. Each rule raises the error of one field,
named as in the contract (`work.sampling.top_p`), with the limit in its description."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from inference_svc.errors import FeatureNotAvailable, InputTooLong, InvalidField, TextEmpty
from inference_svc.requests import (
    ChatPrompt,
    Choice,
    Context,
    EmbedWork,
    GenerateWork,
    JsonSchema,
    OutputDetail,
    OutputFormat,
    Regex,
    Sampling,
    ScoreWork,
    StopConditions,
    TextPrompt,
    TokenPrompt,
    Work,
)

MAX_TEMPERATURE = 100.0
MAX_BIASES = 1024
MAX_BIAS = 100.0
MAX_PENALTY = 2.0
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_BYTES = 256
MAX_TOP_LOGPROBS = 20
MAX_TENANT_BYTES = 256
MAX_STOP_TOKEN_IDS = 1024
MAX_SCHEMA_BYTES = 1 << 16
MAX_REGEX_BYTES = 1 << 12
MAX_CHOICES = 1024
MAX_CHOICE_BYTES = 1 << 12
MAX_CHOICES_BYTES = 1 << 16


def check_context(context: Context) -> None:
    if utf8_length(context.tenant) > MAX_TENANT_BYTES:
        raise InvalidField.of_field("context.tenant_key", f"must be at most {MAX_TENANT_BYTES} bytes")


def check_sampling(sampling: Sampling, vocabulary_size: int) -> None:
    within = _Range("work.sampling")
    within.check("temperature", sampling.temperature, 0.0, MAX_TEMPERATURE)
    within.check("top_p", sampling.top_p, 0.0, 1.0, low_allowed=False)
    within.check("min_p", sampling.min_p, 0.0, 1.0)
    within.check("repetition_penalty", sampling.repetition_penalty, 0.0, math.inf, low_allowed=False)
    within.check("presence_penalty", sampling.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
    within.check("frequency_penalty", sampling.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
    if len(sampling.logit_bias) > MAX_BIASES:
        raise InvalidField.of_field("work.sampling.logit_bias", f"has {len(sampling.logit_bias)} of {MAX_BIASES}")
    check_token_ids("work.sampling.logit_bias", sampling.logit_bias, vocabulary_size)
    for token_id, bias in sampling.logit_bias.items():
        within.check(f"logit_bias[{token_id}]", bias, -MAX_BIAS, MAX_BIAS)


def check_stop(stop: StopConditions, vocabulary_size: int) -> None:
    if stop.max_output_tokens is not None:
        if stop.max_output_tokens < 1:
            raise InvalidField.of_field("work.stop.max_output_tokens", "must be at least 1")
        if stop.min_output_tokens > stop.max_output_tokens:
            raise InvalidField.of_field(
                "work.stop.min_output_tokens", f"must not be above max_output_tokens, {stop.max_output_tokens}"
            )
    if len(stop.stop_strings) > MAX_STOP_STRINGS:
        raise InvalidField.of_field("work.stop.stop_strings", f"must be at most {MAX_STOP_STRINGS}")
    for index, text in enumerate(stop.stop_strings):
        field = f"work.stop.stop_strings[{index}]"
        if not text:
            raise InvalidField.of_field(field, "must not be empty")
        if utf8_length(text) > MAX_STOP_STRING_BYTES:
            raise InvalidField.of_field(field, f"must be at most {MAX_STOP_STRING_BYTES} bytes of UTF-8")
    if len(stop.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidField.of_field("work.stop.stop_token_ids", f"must be at most {MAX_STOP_TOKEN_IDS}")
    check_token_ids("work.stop.stop_token_ids", stop.stop_token_ids, vocabulary_size)


def check_detail(detail: OutputDetail) -> None:
    if detail.top_logprob_count > MAX_TOP_LOGPROBS:
        raise InvalidField.of_field("work.detail.top_logprob_count", f"must be at most {MAX_TOP_LOGPROBS}")
    if detail.top_logprob_count and not (detail.logprobs or detail.prompt_logprobs):
        raise InvalidField.of_field("work.detail.top_logprob_count", "needs logprobs or prompt_logprobs")


def check_format(output_format: OutputFormat | None, stop: StopConditions) -> None:
    if output_format is not None and stop.ignore_end_token:
        raise InvalidField.of_field("work.stop.ignore_end_token", "cannot be with a format, whose end ends the answer")
    match output_format:
        case JsonSchema(schema):
            _check_size("work.format.json_schema", schema, MAX_SCHEMA_BYTES)
        case Regex(pattern):
            _check_size("work.format.regex", pattern, MAX_REGEX_BYTES)
        case Choice(texts):
            _check_choice(texts)
        case None:
            pass


def _check_choice(texts: Sequence[str]) -> None:
    field = "work.format.choice.texts"
    if not texts:
        raise InvalidField.of_field(field, "must have at least one text")
    if len(texts) > MAX_CHOICES:
        raise InvalidField.of_field(field, f"must be at most {MAX_CHOICES}")
    seen: dict[str, int] = {}
    for index, text in enumerate(texts):
        _check_size(f"{field}[{index}]", text, MAX_CHOICE_BYTES)
        if seen.setdefault(text, index) != index:
            raise InvalidField.of_field(f"{field}[{index}]", f"is the same as the one at {seen[text]}")
    if sum(map(utf8_length, texts)) > MAX_CHOICES_BYTES:
        raise InvalidField.of_field(field, f"must be at most {MAX_CHOICES_BYTES} bytes of UTF-8 together")


def _check_size(field: str, text: str, max_bytes: int) -> None:
    if not text:
        raise InvalidField.of_field(field, "must not be empty")
    if utf8_length(text, max_bytes) > max_bytes:
        raise InvalidField.of_field(field, f"must be at most {max_bytes} bytes of UTF-8")


def check_text(field: str, text: str, max_bytes: int) -> int:
    """The text's size in bytes."""
    if not text:
        raise TextEmpty.of_field(field, "must not be empty")
    size = utf8_length(text, max_bytes)
    if size > max_bytes:
        raise InputTooLong.of_field(field, f"is over the model's limit of {max_bytes} bytes of UTF-8")
    return size


def check_messages(prefix: str, prompt: ChatPrompt, max_bytes: int, max_context_tokens: int) -> None:
    if not prompt.messages:
        raise TextEmpty.of_field(f"{prefix}.messages", "must have at least one message")
    if len(prompt.messages) > max_context_tokens:  # none is less than a token: seen before a template is rendered
        count = len(prompt.messages)
        raise InputTooLong.of_field(
            f"{prefix}.messages", f"are {count}; the model's context is {max_context_tokens} tokens"
        )
    size = 0
    for index, message in enumerate(prompt.messages):
        field = f"{prefix}.messages[{index}]"
        if not message.role:
            raise InvalidField.of_field(f"{field}.role", "must not be empty")
        if message.content:
            size += check_text(f"{field}.content", message.content, max_bytes - size)
        elif message.role != "assistant":
            raise TextEmpty.of_field(f"{field}.content", "may be empty for an assistant turn only")


def check_token_ids(field: str, token_ids: Iterable[int], vocabulary_size: int) -> None:
    for index, token_id in enumerate(token_ids):
        if token_id >= vocabulary_size:
            raise InvalidField.of_field(f"{field}[{index}]", f"{token_id} is no token: ids are below {vocabulary_size}")


def check_features(work: Work, unavailable: Sequence[str]) -> None:
    """Refuses what the model's own list refuses: a listed path covers every field under it."""
    refused = tuple(path.removeprefix("work.") for path in unavailable)
    if not refused:
        return
    for used in _features_of(work):
        if any(used == path or used.startswith(path + ".") for path in refused):
            raise FeatureNotAvailable.of_field(f"work.{used}", "is not available with this model")


@contextmanager
def naming_field(field: str) -> Iterator[None]:
    """What a tokenizer refuses, told of the contract's field, which the tokenizer cannot know."""
    try:
        yield
    except InvalidField as error:
        description = error.violations[0].description if error.violations else error.message
        raise InvalidField.of_field(field, description) from error


def utf8_length(text: str, limit: int | None = None) -> int:
    """Bytes of UTF-8; where the character count alone is over `limit`, that count (nothing is encoded then)."""
    if text.isascii() or (limit is not None and len(text) > limit):
        return len(text)
    return len(text.encode("utf-8", errors="surrogatepass"))


class _Range:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def check(self, name: str, value: float, low: float, high: float, *, low_allowed: bool = True) -> None:
        if not math.isfinite(value):
            raise InvalidField.of_field(f"{self._prefix}.{name}", "must be a finite number")
        if value > high or value < low or (value == low and not low_allowed):
            bracket = "[" if low_allowed else "("
            limit = f"in {bracket}{low:g}, {high:g}]" if math.isfinite(high) else f"above {low:g}"
            raise InvalidField.of_field(f"{self._prefix}.{name}", f"must be {limit}")


def _features_of(work: Work) -> Iterator[str]:
    """Contract paths of everything that the work asks for beyond the neutral."""
    match work:
        case GenerateWork():
            yield from _generation_features(work)
        case EmbedWork():
            if work.dimension_count is not None:
                yield "dimension_count"
            if not work.normalize:
                yield "normalize"
            if work.prompt_name:
                yield "prompt_name"
        case ScoreWork():
            if any(given.text_pair is not None for given in work.inputs):
                yield "inputs.text_pair"


def _generation_features(work: GenerateWork) -> Iterator[str]:
    match work.prompt:
        case ChatPrompt():
            yield "prompt.chat"
        case TextPrompt():
            yield "prompt.text"
        case TokenPrompt():
            yield "prompt.tokens"
    match work.format:
        case JsonSchema():
            yield "format.json_schema"
        case Regex():
            yield "format.regex"
        case Choice():
            yield "format.choice"
        case None:
            pass
    neutral = Sampling()
    for name in Sampling.__dataclass_fields__:
        if getattr(work.sampling, name) != getattr(neutral, name):
            yield f"sampling.{name}"
    for name in ("min_output_tokens", "stop_strings", "stop_token_ids", "ignore_end_token"):
        if getattr(work.stop, name):
            yield f"stop.{name}"
    for name in ("logprobs", "top_logprob_count", "prompt_logprobs"):
        if getattr(work.detail, name):
            yield f"detail.{name}"
    if work.resumed_ids is not None:
        yield "resume"
