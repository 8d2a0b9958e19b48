"""A redacted frame shows nothing of what was asked or answered, whatever the contract will have."""

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from inference_svc.recording.digests import Digests, content_of
from inference_svc.recording.redaction import CHANGED, KEPT, filler, redacted, without_tenants
from inference_svc.requests import GenerateWork, Sampling, StopConditions, TextPrompt
from seam.inference.v1 import session_pb2, work_pb2

OF_THEIR_OWN = {"Tokens", "TokenColumns", "google.rpc.Status", "google.protobuf.Any", "google.protobuf.Duration"}
SECRET = "swordfish"
SECRET_ID = 73571


def leaves(message, seen):
    """Every field of the contract's frames that holds a value, or is a map, by (message, field)."""
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    for field in message.fields:
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            yield message.full_name.removeprefix("seam.inference.v1."), field
        else:
            yield from leaves(field.message_type, seen)


def all_leaves():
    seen = set()
    for frame in (session_pb2.SessionRequest, session_pb2.SessionResponse):
        yield from leaves(frame.DESCRIPTOR, seen)


def test_it_is_decided_for_every_field_of_the_contract_whether_it_is_shown():
    undecided = [
        f"{message}.{field.name}"
        for message, field in all_leaves()
        if message not in OF_THEIR_OWN
        and field.type not in (FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_ENUM)
        and field.name not in KEPT.get(message, "").split()
        and field.name not in CHANGED.get(message, {})
    ]
    assert undecided == []


def test_the_tables_name_fields_that_there_are():
    there = {(message, field.name) for message, field in all_leaves()}
    kept = {(message, name) for message, names in KEPT.items() for name in names.split()}
    changed = {(message, name) for message, names in CHANGED.items() for name in names}
    assert kept | changed <= there
    assert not kept & changed


def full(message, depth=0):
    """With the secret in every text and every number that may be an id."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[SECRET_ID] = 1.5
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            full(inner.add() if field.is_repeated else inner, depth + 1)
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            secret = SECRET.encode() if field.type == FieldDescriptor.TYPE_BYTES else SECRET
            _set(message, field, secret)
        elif field.type in (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64):
            _set(message, field, SECRET_ID)
        elif field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
            _set(message, field, 0.7357)
    return message


def _set(message, field, value):
    if field.is_repeated:
        getattr(message, field.name).append(value)
    elif field.containing_oneof is None or message.WhichOneof(field.containing_oneof.name) is None:
        setattr(message, field.name, value)


SUBMITS = {
    "chat": {"prompt": {"chat": {"messages": [{"role": SECRET, "content": SECRET}]}}},
    "text": {"prompt": {"text": SECRET}},
    "ids": {"prompt": {"tokens": {"ids": [SECRET_ID]}}, "resume": {"output_token_ids": [SECRET_ID]}},
    "bias": {"sampling": {"logit_bias": {SECRET_ID: 1.0}}},
    "stop": {"stop": {"stop_strings": [SECRET], "stop_token_ids": [SECRET_ID]}},
    "schema": {"format": {"json_schema": SECRET}},
    "regex": {"format": {"regex": SECRET}},
    "choice": {"format": {"choice": {"texts": [SECRET]}}},
}


@pytest.mark.parametrize("work", SUBMITS.values(), ids=SUBMITS)
def test_no_way_of_asking_shows_what_was_asked(work):
    context = {"tenant_key": SECRET, "trace": {"tracestate": SECRET}}
    submit = session_pb2.Submit(request_id=1, model="chat", generate=work_pb2.GenerateWork(**work), context=context)
    shown = redacted(session_pb2.SessionRequest(submits=[submit]), Digests()).submits[0]
    assert SECRET not in str(shown)
    assert str(SECRET_ID) not in str(shown)
    assert shown.request_id == 1
    assert shown.model == "chat"


def test_encoders_inputs_are_not_shown():
    frame = session_pb2.SessionRequest()
    frame.submits.add(embed={"texts": [SECRET, "x" * 5], "prompt_name": SECRET})
    frame.submits.add(score={"inputs": [{"text": SECRET, "text_pair": SECRET}]})
    shown = redacted(frame, Digests())
    assert SECRET not in str(shown)
    assert [len(text) for text in shown.submits[0].embed.texts] == [16, 8]


def test_no_way_of_answering_shows_the_answer():
    frame = session_pb2.SessionResponse()
    told = frame.events.add(request_id=1).tokens
    told.ids.append(SECRET_ID)
    told.text = SECRET
    told.logprobs.add(chosen={"token_id": SECRET_ID, "logprob": -0.7357, "text": SECRET}).top.add(text=SECRET)
    told.prompt_logprobs.add(chosen={"token_id": SECRET_ID, "text": SECRET})
    frame.tokens.request_ids.extend([2, 3])
    frame.tokens.id_counts.extend([1, 2])
    frame.tokens.text_byte_counts.extend([len(SECRET), 0])
    frame.tokens.ids.extend([SECRET_ID] * 3)
    frame.tokens.text = SECRET
    frame.events.add(request_id=4).vectors.embeddings.add(values=[0.7357, 0.5])
    frame.events.add(request_id=5).scores.scores.add().labels.add(label="good", score=0.7357)
    frame.events.add(request_id=6).finished.stop_string = SECRET
    shown = redacted(frame, Digests())
    assert SECRET not in str(shown)
    assert str(SECRET_ID) not in str(shown)
    assert "7357" not in str(shown)
    assert list(shown.tokens.text_byte_counts) == [4, 8]  # nothing of the tokens' own lengths
    assert len(shown.tokens.text) == 12
    assert list(shown.events[1].vectors.embeddings[0].values) == [1.0, 0.0]
    assert shown.events[2].scores.scores[0].labels[0].label == "good"


def test_a_failure_tells_its_reason_and_its_field_and_none_of_its_words():
    status = status_pb2.Status(code=3, message=SECRET)
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="seam", metadata={"a": SECRET})
    )
    violations = [
        {"field": "work.stop.stop_strings[3]", "description": SECRET},
        {"field": f"/properties/{SECRET}", "description": SECRET},
    ]
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=violations))
    status.details.add().Pack(error_details_pb2.DebugInfo(detail=SECRET))
    frame = session_pb2.SessionResponse()
    frame.events.add(request_id=1).failed.CopyFrom(status)
    shown = redacted(frame, Digests())
    assert SECRET.encode() not in shown.SerializeToString()
    assert b"INVALID_FIELD" in shown.SerializeToString()
    assert b"work.stop.stop_strings[3]" in shown.SerializeToString()


def test_fields_of_a_later_contract_are_left_out():
    unknown = b"\xa2\x1f" + bytes([len(SECRET)]) + SECRET.encode()  # field 500, of some text
    frame = session_pb2.SessionRequest.FromString(unknown)
    assert SECRET.encode() in frame.SerializeToString()
    assert SECRET.encode() not in redacted(frame, Digests()).SerializeToString()


def test_a_frame_full_of_secrets_shows_none_but_what_is_kept_by_name():
    frame = full(session_pb2.SessionRequest())
    shown = redacted(frame, Digests())
    kept = "Hello.client_id Hello.user_agent Hello.capabilities Submit.model TraceContext.traceparent"
    assert str(shown).count(SECRET) == len(kept.split())


def test_tenants_are_never_shown_not_even_in_plain():
    frame = session_pb2.SessionRequest()
    frame.submits.add(context={"tenant_key": "acme"}, generate={"prompt": {"text": "hello"}})
    shown = without_tenants(frame, Digests())
    assert shown.submits[0].generate.prompt.text == "hello"
    assert shown.submits[0].context.tenant_key not in ("", "acme")
    assert frame.submits[0].context.tenant_key == "acme"  # the frame itself belongs to the session


@given(st.text(max_size=300))
def test_a_filler_keeps_the_class_of_length_alone(text):
    made = filler(text)
    assert set(made) <= {"x"}
    assert len(text) <= len(made) < 2 * max(1, len(text))
    assert len(made).bit_count() <= 1


def test_digests_are_equal_for_equal_work_and_for_one_key_only():
    def work(**sampling: object) -> GenerateWork:
        return GenerateWork(TextPrompt("hello"), Sampling(**sampling), StopConditions(max_output_tokens=4))

    key = Digests("a key of sixteen")
    asked = content_of("chat", work(seed=1, temperature=0.5))
    assert asked == content_of("chat", work(seed=2, temperature=0.5))
    assert asked != content_of("chat", work(temperature=0.6))
    assert asked != content_of("other", work(temperature=0.5))
    assert key.of_content(asked) == Digests("a key of sixteen").of_content(asked)
    assert key.of_content(asked) != Digests("another key here").of_content(asked)
    assert Digests().key_check != Digests().key_check
