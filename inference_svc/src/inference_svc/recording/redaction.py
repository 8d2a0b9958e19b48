"""What of a frame a recording may show. Decided for every field of the contract; a field that nobody decided about is
left out.

A redacted frame keeps its shape: the same requests, events, counts and times. Texts become filler of the next power of
two in length. Token ids all become 0, since ids that stayed apart could be read by their frequencies; new text is four
characters a token, since the lengths of tokens one after another tell a good deal of what they say. Vectors and
probabilities, from which texts can be guessed, become constants. Counts of tokens stay as they are.
"""

import re
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from seam.inference.v1 import session_pb2 as session_pb
from seam.inference.v1 import work_pb2 as work_pb

from inference_svc.recording.digests import Digests

Frame = TypeVar("Frame", session_pb.SessionRequest, session_pb.SessionResponse)
FILLER = "x"
TOKEN_FILLER = "xxx "
REDACTED = "redacted"
_ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})
_FIELD_PATH = re.compile(r"[a-z0-9_.\[\]]{1,100}")


class Change(Enum):
    """What is put in a field's place."""

    TEXT = "filler of the same class of length"
    ROLE = "itself if it is a usual one, filler otherwise"
    ZERO = "zeros, as many"
    UNIT = "the first unit vector, as long"
    NOTHING = "nothing: it is left out"
    TENANT = "its digest; even where nothing else is redacted"


CHANGED: Mapping[str, Mapping[str, Change]] = {
    "RequestContext": {"tenant_key": Change.TENANT},
    "TraceContext": {"tracestate": Change.NOTHING},
    "Message": {"role": Change.ROLE, "content": Change.TEXT},
    "Prompt": {"text": Change.TEXT},
    "TokenIds": {"ids": Change.ZERO},
    "Sampling": {"logit_bias": Change.NOTHING},
    "StopConditions": {"stop_strings": Change.TEXT, "stop_token_ids": Change.ZERO},
    "OutputFormat": {"json_schema": Change.TEXT, "regex": Change.TEXT},
    "Choice": {"texts": Change.TEXT},
    "Resume": {"output_token_ids": Change.ZERO},
    "EmbedWork": {"texts": Change.TEXT, "prompt_name": Change.TEXT},
    "ScoreInput": {"text": Change.TEXT, "text_pair": Change.TEXT},
    "TokenLogprob": {"token_id": Change.ZERO, "logprob": Change.ZERO, "text": Change.TEXT},
    "Embedding": {"values": Change.UNIT},
    "LabelScore": {"score": Change.ZERO},
    "Finished": {"stop_string": Change.TEXT},
}
"""By message of seam.inference.v1. `Tokens`, `TokenColumns` and a failed event's status have functions of their own."""

KEPT: Mapping[str, str] = {
    "Hello": "protocol_revision client_id user_agent capabilities",
    "TraceContext": "traceparent",
    "Submit": "request_id model initial_credits",
    "Cancel": "request_id",
    "Grant": "request_id credits",
    "Sampling": "temperature top_k top_p min_p repetition_penalty presence_penalty frequency_penalty seed",
    "StopConditions": "max_output_tokens min_output_tokens",
    "OutputDetail": "top_logprob_count",
    "EmbedWork": "dimension_count",
    "Welcome": "protocol_revision replica_id capabilities max_live_requests",
    "Model": "name source architecture device dtype dimension_count labels vocabulary_size notice unavailable_features",
    "ModelLimits": "max_context_tokens max_output_tokens max_texts max_text_bytes",
    "Accepted": "input_token_count seed",
    "Event": "request_id",
    "Embedding": "index input_token_count",
    "Score": "index input_token_count",
    "LabelScore": "label",
    "Usage": "input_token_count output_token_count cached_token_count",
    "ModelLoad": "model running_sequence_count waiting_sequence_count queued_token_count free_cache_token_count",
    "ModelTotals": "model output_token_count input_token_count finished_request_count",
    "WaitingByPriority": "interactive normal batch",
}
"""Numbers and strings that say nothing of what was asked or answered. Enums, flags and durations are always kept."""

_PACKAGE = f"{session_pb.DESCRIPTOR.package}."
_AS_THEY_ARE = frozenset({"google.protobuf.Duration"})


def redacted(frame: Frame, digests: Digests) -> Frame:
    """A copy that shows nothing of the texts."""
    copy = type(frame)()
    copy.CopyFrom(frame)
    copy.DiscardUnknownFields()
    _redact(copy, digests)
    return copy


def without_tenants(frame: session_pb.SessionRequest, digests: Digests) -> session_pb.SessionRequest:
    """A copy as the frame was, but for the tenants' keys."""
    copy = session_pb.SessionRequest()
    copy.CopyFrom(frame)
    for submit in copy.submits:
        if submit.context.tenant_key:
            submit.context.tenant_key = digests.of_tenant(submit.context.tenant_key)
    return copy


def _redact(message: Message, digests: Digests) -> None:
    match message:
        case work_pb.Tokens():
            _redact_tokens(message, digests)
        case session_pb.TokenColumns():
            _redact_columns(message)
        case status_pb2.Status():
            _redact_status(message)
        case _:
            for field, value in message.ListFields():
                _redact_field(message, field, value, digests)


def _redact_field(message: Message, field: FieldDescriptor, value: object, digests: Digests) -> None:
    if field.message_type is not None and not _is_map(field):
        if not _may_show(field.message_type):
            return
        for inner in value if field.is_repeated else (value,):  # type: ignore[attr-defined]
            _redact(inner, digests)
        return
    change = _change(field)
    if change is None:
        return
    message.ClearField(field.name)
    if change is Change.NOTHING:
        return
    if field.is_repeated:
        stand_ins = _unit(len(value)) if change is Change.UNIT else [_stand_in(one, change, digests) for one in value]  # type: ignore[arg-type, attr-defined]
        getattr(message, field.name).extend(stand_ins)
    else:
        setattr(message, field.name, _stand_in(value, change, digests))


def _stand_in(value: object, change: Change, digests: Digests) -> object:
    match change:
        case Change.TEXT:
            return filler(str(value))
        case Change.ROLE:
            return value if value in _ROLES else filler(str(value))
        case Change.TENANT:
            return digests.of_tenant(str(value))
        case _:
            return 0


def filler(text: str) -> str:
    """As long as the next power of two."""
    return FILLER * (1 << (len(text) - 1).bit_length()) if text else ""


def _unit(length: int) -> list[float]:
    return [1.0, *[0.0] * (length - 1)]


def _redact_tokens(tokens: work_pb.Tokens, digests: Digests) -> None:
    count = len(tokens.ids)
    tokens.ids[:] = [0] * count
    tokens.text = TOKEN_FILLER * count
    for position in (*tokens.logprobs, *tokens.prompt_logprobs):
        _redact(position, digests)


def _redact_columns(columns: session_pb.TokenColumns) -> None:
    counts = columns.id_counts
    columns.text_byte_counts[:] = [len(TOKEN_FILLER) * count for count in counts]
    columns.text = TOKEN_FILLER * sum(counts)
    columns.ids[:] = [0] * len(columns.ids)


def _redact_status(status: status_pb2.Status) -> None:
    """The code, the reason and when to retry; which field was wrong, where that is a path of the contract."""
    details = list(status.details)
    del status.details[:]
    status.message = REDACTED
    for detail in details:
        info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            status.details.add().Pack(error_details_pb2.ErrorInfo(reason=info.reason, domain=info.domain))
        elif detail.Unpack(retry):
            status.details.add().Pack(retry)
        elif detail.Unpack(bad):
            for violation in bad.field_violations:
                if not _FIELD_PATH.fullmatch(violation.field):
                    violation.field = REDACTED
                violation.description = REDACTED
                violation.reason = ""
                violation.ClearField("localized_message")
            status.details.add().Pack(bad)


@cache
def _change(field: FieldDescriptor) -> Change | None:
    """None keeps it."""
    if field.type in (FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_ENUM):
        return None
    message = _short(field.containing_type)
    if field.name in KEPT.get(message, "").split():
        return None
    return CHANGED.get(message, {}).get(field.name, Change.NOTHING)


@cache
def _may_show(message: Descriptor) -> bool:
    """Whether anything in it, or under it, is changed."""
    if message.full_name in _AS_THEY_ARE:
        return False
    if not message.full_name.startswith(_PACKAGE) or _short(message) in ("Tokens", "TokenColumns"):
        return True
    return any(
        _may_show(field.message_type)
        if field.message_type is not None and not _is_map(field)
        else _change(field) is not None
        for field in message.fields
    )


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _short(message: Descriptor | None) -> str:
    assert message is not None  # a field of no message is an extension, which the contract has none of
    return message.full_name.removeprefix(_PACKAGE)
