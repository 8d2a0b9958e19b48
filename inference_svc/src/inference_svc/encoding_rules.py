"""What embedding and scoring need before they may be queued: every input tokenised, within the model's limits."""

from inference_svc.errors import InputTooLong, InvalidField, TextEmpty, TooManyTexts
from inference_svc.field_rules import check_text, naming_field
from inference_svc.model import LoadedModel
from inference_svc.requests import Context, EmbedWork, EncodedInput, Encoding, ScoreWork, Truncation


def prepare_encoding(model: LoadedModel, context: Context, work: EmbedWork | ScoreWork) -> Encoding:
    """The whole way from what was asked to what can be computed. Raises the SeamError of the first bad field."""
    match work:
        case EmbedWork():
            inputs = _embed_inputs(model, work)
        case ScoreWork():
            inputs = _score_inputs(model, work)
    return Encoding(model=model.info.name, context=context, inputs=inputs, work=work)


def _embed_inputs(model: LoadedModel, work: EmbedWork) -> tuple[EncodedInput, ...]:
    _check_count(model, "work.texts", len(work.texts))
    if work.dimension_count is not None and not 1 <= work.dimension_count <= model.info.dimension_count:
        raise InvalidField.of_field("work.dimension_count", f"must be in [1, {model.info.dimension_count}]")
    with naming_field("work.prompt_name"):
        prefix = model.tokenizer.prompt_for(work.prompt_name)
    reader = _InputReader(model, work.truncation)
    inputs = []
    for index, text in enumerate(work.texts):
        field = f"work.texts[{index}]"
        check_text(field, text, model.info.limits.max_text_bytes)
        inputs.append(reader.read(index, field, prefix + text, None))
    return tuple(inputs)


def _score_inputs(model: LoadedModel, work: ScoreWork) -> tuple[EncodedInput, ...]:
    _check_count(model, "work.inputs", len(work.inputs))
    reader = _InputReader(model, work.truncation)
    max_bytes = model.info.limits.max_text_bytes
    inputs = []
    for index, given in enumerate(work.inputs):
        field = f"work.inputs[{index}]"
        size = check_text(f"{field}.text", given.text, max_bytes)
        if given.text_pair is not None:
            check_text(f"{field}.text_pair", given.text_pair, max_bytes - size)
        inputs.append(reader.read(index, field, given.text, given.text_pair))
    return tuple(inputs)


def _check_count(model: LoadedModel, field: str, count: int) -> None:
    if not count:
        raise TextEmpty.of_field(field, "must have at least one")
    if count > model.info.limits.max_texts:
        raise TooManyTexts.of_field(field, f"has {count}; one request takes at most {model.info.limits.max_texts}")


class _InputReader:
    """Tokenises the inputs of one request, and cuts or refuses those over the model's context."""

    def __init__(self, model: LoadedModel, truncation: Truncation) -> None:
        self._tokenizer = model.tokenizer
        self._limit = model.info.limits.max_context_tokens
        self._truncation = truncation

    def read(self, index: int, field: str, text: str, text_pair: str | None) -> EncodedInput:
        token_ids, type_ids = self._tokenizer.encode_pair(text, text_pair)
        truncated = len(token_ids) > self._limit
        if truncated:
            if self._truncation is Truncation.REFUSE:
                raise InputTooLong.of_field(field, f"has {len(token_ids)} tokens; the model's limit is {self._limit}")
            token_ids, type_ids = self._tokenizer.truncate_pair(text, text_pair, self._limit)
        if not token_ids:
            raise TextEmpty.of_field(field, "has no tokens")
        return EncodedInput(index, tuple(token_ids), None if type_ids is None else tuple(type_ids), truncated)
