"""A ModelInferRequest read into the words inside, by what its model does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from inference import open_inference_pb2 as pb

from inference_svc.errors import FeatureNotAvailable, InvalidField, TextEmpty
from inference_svc.requests import (
    ChatPrompt,
    Context,
    EmbedWork,
    GenerateWork,
    Message,
    ModelInfo,
    Priority,
    Prompt,
    Request,
    ScoreActivation,
    ScoreInput,
    ScoreWork,
    Task,
    TextPrompt,
    Truncation,
    Work,
)
from inference_svc.wire.open_inference.parameters import Given, read_json, values_of
from inference_svc.wire.open_inference.sampling_parameters import read_format, read_sampling, read_stop
from inference_svc.wire.open_inference.signature import signature_of
from inference_svc.wire.open_inference.tensors import (
    GivenTensor,
    read_flag,
    read_inputs,
    read_text,
    read_texts,
    wanted_outputs,
)

PRIORITIES: Mapping[int, Priority] = {1: Priority.INTERACTIVE, 2: Priority.NORMAL, 3: Priority.BATCH}
DEFAULT_PRIORITY = 2
MAX_SAMPLING_BYTES = 1 << 18  # of JSON
_MAX_TIMEOUT = (1 << 63) - 1  # microseconds
_MESSAGES_FRAME = 1 << 16  # bytes of JSON that are not content
_ESCAPED = 6  # bytes of JSON that a byte of text may become
_STATEFUL = ("sequence_id", "sequence_start", "sequence_end")
Word = TypeVar("Word")


@dataclass(frozen=True, slots=True)
class Moment:
    """What surrounds a request: the clock, and what the call itself brings. `call_seconds` is what its deadline
    leaves."""

    now: float
    call_seconds: float | None = None
    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """`outputs` are the names to send, in order; `shape` is that of the text. `in_pieces` is None where the request
    leaves it open. `tells_end` asks for a last response of its own, empty, in a stream."""

    request: Request
    outputs: tuple[str, ...]
    shape: tuple[int, ...]
    in_pieces: bool | None = None
    tells_end: bool = False

    @property
    def prompt_tensor(self) -> str:
        work = self.request.work
        return "messages" if isinstance(work, GenerateWork) and isinstance(work.prompt, ChatPrompt) else "text_input"


def read_infer(message: pb.ModelInferRequest, info: ModelInfo, moment: Moment) -> Asked:
    """`info` is of the model that the message names. Raises the SeamError of what makes no sense by itself; whether a
    value suits the model is admission's to say."""
    signature = signature_of(info)
    inputs = read_inputs(message, signature.inputs, signature.max_texts)
    outputs = wanted_outputs(message, signature.outputs)
    given = Given(_all_values(message, inputs))
    for name in _STATEFUL:
        if given.take(name) is not None:
            raise FeatureNotAvailable.of_field(name, "no model here keeps state between requests")
    context = _read_context(given, moment)
    tells_end = given.flag("triton_enable_empty_final_response") or False
    in_pieces = None
    match info.task:
        case Task.GENERATE:
            in_pieces = _read_stream(inputs, given)
            text = inputs.get("text_input") or inputs.get("messages")
            work: Work = _read_generate(inputs, given, info)
        case Task.EMBED:
            text, work = inputs["text"], _read_embed(inputs, given)
        case Task.SCORE:
            text, work = inputs["text"], _read_score(inputs, given)
    given.check_all_taken()
    assert text is not None
    return Asked(Request(info.name, work, context), outputs, text.shape, in_pieces, tells_end)


def _all_values(message: pb.ModelInferRequest, inputs: Mapping[str, GivenTensor]) -> dict[str, Any]:
    """The request's parameters, and under them those of a JSON text, which comes as a tensor or as a parameter."""
    values = values_of(message.parameters)
    field = "sampling_parameters"
    text = read_text(inputs[field]) if field in inputs else values.pop(field, None)
    if text is None:
        return values
    if not isinstance(text, str) or not isinstance(more := read_json(field, text, MAX_SAMPLING_BYTES), dict):
        raise InvalidField.of_field(field, "must be a JSON object")
    return {**more, **values}


def _read_context(given: Given, moment: Moment) -> Context:
    microseconds = given.integer("timeout", 0, _MAX_TIMEOUT)
    deadlines = [moment.now + microseconds / 1e6] if microseconds else []
    if moment.call_seconds is not None:
        deadlines.append(moment.now + moment.call_seconds)
    return Context(
        priority=PRIORITIES[given.integer("priority", 0, max(PRIORITIES)) or DEFAULT_PRIORITY],
        deadline=min(deadlines, default=None),
        tenant=given.text("tenant_key") or "",
        traceparent=moment.traceparent,
        tracestate=moment.tracestate,
    )


def _read_stream(inputs: Mapping[str, GivenTensor], given: Given) -> bool | None:
    as_value = given.flag("stream")
    as_tensor = read_flag(inputs["stream"]) if "stream" in inputs else None
    excluded = given.flag("exclude_input_in_output")
    if "exclude_input_in_output" in inputs:
        excluded = read_flag(inputs["exclude_input_in_output"])
    if excluded is False:
        raise FeatureNotAvailable.of_field("exclude_input_in_output", "an answer never repeats its input here")
    return as_value if as_tensor is None else as_tensor


def _read_generate(inputs: Mapping[str, GivenTensor], given: Given, info: ModelInfo) -> GenerateWork:
    if ("text_input" in inputs) == ("messages" in inputs):
        raise TextEmpty.of_field("text_input", "one of text_input and messages must be there, and not both")
    if "text_input" in inputs:
        prompt: Prompt = TextPrompt(read_text(inputs["text_input"]))
    else:
        most = _ESCAPED * info.limits.max_text_bytes + _MESSAGES_FRAME
        prompt = ChatPrompt(_read_messages(read_json("messages", read_text(inputs["messages"]), most)))
    return GenerateWork(prompt, read_sampling(given), read_stop(given), read_format(given))


def _read_messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise InvalidField.of_field("messages", "must be a JSON list of objects with role and content")
    messages = []
    for index, message in enumerate(value):
        match message:
            case {"role": str(role), "content": str(content)} if len(message) == 2:
                messages.append(Message(role, content))
            case _:
                raise InvalidField.of_field(f"messages[{index}]", "must have role and content, both texts, and no more")
    return tuple(messages)


def _read_embed(inputs: Mapping[str, GivenTensor], given: Given) -> EmbedWork:
    normalize = given.flag("normalize")
    return EmbedWork(
        texts=read_texts(inputs["text"]),
        truncation=_read_truncation(given),
        dimension_count=given.integer("dimensions", 1, (1 << 32) - 1),
        normalize=True if normalize is None else normalize,
        prompt_name=given.text("prompt_name") or "",
    )


def _read_score(inputs: Mapping[str, GivenTensor], given: Given) -> ScoreWork:
    texts = read_texts(inputs["text"])
    pairs: Sequence[str | None] = [None] * len(texts)
    if "text_pair" in inputs:
        pairs = read_texts(inputs["text_pair"])
        if len(pairs) != len(texts):
            raise InvalidField.of_field("text_pair", f"has {len(pairs)} elements for {len(texts)} of text")
    activation = given.text("activation") or ScoreActivation.MODEL.value
    if activation not in [each.value for each in ScoreActivation]:
        raise InvalidField.of_field("activation", f"must be one of {', '.join(each.value for each in ScoreActivation)}")
    return ScoreWork(
        inputs=tuple(map(ScoreInput, texts, pairs)),
        truncation=_read_truncation(given),
        activation=ScoreActivation(activation),
    )


def _read_truncation(given: Given) -> Truncation:
    return Truncation.DROP_END if given.flag("truncate") else Truncation.REFUSE
