"""What a generation needs before it may be queued: a prompt that the model can read and that leaves room to answer."""

from dataclasses import replace

from inference_svc.errors import FeatureNotAvailable, InputTooLong, InvalidField, TextEmpty
from inference_svc.field_rules import (
    check_detail,
    check_format,
    check_messages,
    check_sampling,
    check_stop,
    check_text,
    check_token_ids,
    naming_field,
)
from inference_svc.model import LoadedModel
from inference_svc.requests import (
    ChatPrompt,
    GenerateWork,
    Generation,
    Grammar,
    OutputFormat,
    Prompt,
    Request,
    Sampling,
    TextPrompt,
    TokenPrompt,
)


def prepare_generation(model: LoadedModel, request: Request) -> Generation:
    """The whole way from what was asked to what can be computed. Raises the SeamError of the first bad field."""
    work = request.work
    assert isinstance(work, GenerateWork)
    vocabulary_size = model.info.vocabulary_size
    check_sampling(work.sampling, vocabulary_size)
    check_stop(work.stop, vocabulary_size)
    check_format(work.format, work.stop)
    check_detail(work.detail)
    _check_resume(work, vocabulary_size)
    ids = prompt_ids(model, work.prompt)
    max_output_tokens = _room_to_answer(model, len(ids), work)
    grammar = _compiled(model, work.format)
    model_end = frozenset[int]() if work.stop.ignore_end_token else model.tokenizer.end_token_ids
    ends = model_end | frozenset(work.stop.stop_token_ids)
    return Generation(
        model=model.info.name,
        context=request.context,
        credits=request.credits,
        prompt_ids=tuple(ids),
        resumed_ids=work.resumed_ids or (),
        sampling=_with_seed(work.sampling),
        end_token_ids=ends,
        stop_strings=work.stop.stop_strings,
        min_output_tokens=work.stop.min_output_tokens,
        max_output_tokens=max_output_tokens,
        format=work.format,
        detail=work.detail,
        grammar=grammar,
        resumed_is_whole=_check_resumed_format(grammar, work, ends),
    )


def prompt_ids(model: LoadedModel, prompt: Prompt, field: str = "work.prompt") -> list[int]:
    """Ids of a prompt, checked in size before it is tokenised; never empty."""
    max_bytes = model.info.limits.max_text_bytes
    match prompt:
        case ChatPrompt():
            check_messages(f"{field}.chat", prompt, max_bytes, model.info.limits.max_context_tokens)
            if not model.tokenizer.has_chat_template:
                raise FeatureNotAvailable.of_field(f"{field}.chat", f"model {model.info.name} has no chat template")
            with naming_field(f"{field}.chat.messages"):
                ids = model.tokenizer.encode_chat(prompt.messages, prompt.add_generation_prompt)
        case TextPrompt(text):
            check_text(f"{field}.text", text, max_bytes)
            ids = model.tokenizer.encode_text(text)
        case TokenPrompt(given):
            check_token_ids(f"{field}.tokens.ids", given, model.info.vocabulary_size)
            ids = list(given)
    if not ids:
        raise TextEmpty.of_field(field, "has no tokens")
    return ids


def _room_to_answer(model: LoadedModel, prompt_count: int, work: GenerateWork) -> int:
    """Tokens that the answer may have, resumed ones included."""
    context, most = model.info.limits.max_context_tokens, model.info.limits.max_output_tokens
    if prompt_count >= context:
        raise InputTooLong.of_field(
            "work.prompt", f"has {prompt_count} tokens; the model's context is {context}, one of it for the answer"
        )
    room = min(context - prompt_count, most)
    asked = work.stop.max_output_tokens
    if asked is not None and asked > most:
        raise InvalidField.of_field("work.stop.max_output_tokens", f"must be at most {most} with this model")
    if asked is not None and asked > room:
        raise InputTooLong.of_field(
            "work.stop.max_output_tokens",
            f"{asked} with a prompt of {prompt_count} tokens is over the model's context of {context}",
        )
    allowed = room if asked is None else asked
    if work.stop.min_output_tokens > allowed:
        raise InputTooLong.of_field(
            "work.stop.min_output_tokens", f"{work.stop.min_output_tokens} is over the {allowed} that may be asked"
        )
    if len(work.resumed_ids or ()) > allowed:
        raise InvalidField.of_field("work.resume.output_token_ids", f"must be at most the {allowed} that may be asked")
    return allowed


def _check_resume(work: GenerateWork, vocabulary_size: int) -> None:
    if work.resumed_ids is None:
        return
    check_token_ids("work.resume.output_token_ids", work.resumed_ids, vocabulary_size)
    if work.sampling.temperature > 0 and work.sampling.seed is None:
        raise InvalidField.of_field("work.sampling.seed", "must be set to resume a sampled generation")


def _compiled(model: LoadedModel, output_format: OutputFormat | None) -> Grammar | None:
    if output_format is None:
        return None
    if model.grammars is None:
        raise FeatureNotAvailable.of_field("work.format", "is not available with this model")
    return model.grammars.compiled(output_format)


def _check_resumed_format(grammar: Grammar | None, work: GenerateWork, ends: frozenset[int]) -> bool:
    """Whether the resumed ids are all that the format allows. Refuses ids that it does not allow."""
    if grammar is None or not work.resumed_ids:
        return False
    field, ids = "work.resume.output_token_ids", work.resumed_ids
    over = (at for at, token_id in enumerate(ids) if token_id in ends and at >= work.stop.min_output_tokens)
    end = next(over, None)
    read = grammar.read(ids[:end])
    if read.fitting < len(ids[:end]):
        raise InvalidField.of_field(f"{field}[{read.fitting}]", f"{ids[read.fitting]} is not allowed by the format")
    if end is not None and not read.is_complete:
        raise InvalidField.of_field(f"{field}[{end}]", f"{ids[end]} ends the answer before its format does")
    return end is None and read.is_over


def _with_seed(sampling: Sampling) -> Sampling:
    """Greedy answers need no seed; a fixed one keeps them alike in every log."""
    return sampling if sampling.seed is not None else replace(sampling, seed=0)
