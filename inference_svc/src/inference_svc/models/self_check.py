"""A model is served packed only if its packed answers are its own."""

from dataclasses import dataclass

from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class PlainLogits:
    vocabulary_size: int


def refuse_what_cannot_be_packed(model: PreTrainedModel, max_context_tokens: int) -> None:
    pass


def plain_logits(model: PreTrainedModel) -> PlainLogits:
    return PlainLogits(model.config.get_text_config().vocab_size)


def check_against(expected: PlainLogits, runner: object, windows: dict[int, int | None]) -> None:
    pass
