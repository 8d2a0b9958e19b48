"""Tensors and parameters of the Open Inference Protocol: what goes in comes out, and nothing else gets in."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference import open_inference_pb2 as pb
from inference_svc.errors import FieldViolation, InvalidField, SeamError, TooManyTexts
from inference_svc.wire.open_inference.field_names import naming_tensors
from inference_svc.wire.open_inference.parameters import Given, integer_of, number_of, read_json, values_of
from inference_svc.wire.open_inference.signature import ANY, BOOL, BYTES, TensorSpec
from inference_svc.wire.open_inference.tensors import (
    counts_tensor,
    decode_bytes,
    encode_bytes,
    flags_tensor,
    floats_tensor,
    read_flag,
    read_inputs,
    read_texts,
    texts_tensor,
)
from support.open_inference import set_parameter

TEXT = TensorSpec("text", BYTES, (ANY,))
FLAG = TensorSpec("flag", BOOL, (1,), optional=True)
SHAPES = st.sampled_from([lambda n: [n], lambda n: [n, 1]])


def request(elements, shape, *, raw):
    message = pb.ModelInferRequest()
    tensor = message.inputs.add(name="text", datatype="BYTES", shape=shape)
    if raw:
        message.raw_input_contents.append(encode_bytes(elements))
    else:
        tensor.contents.bytes_contents.extend(elements)
    return message


def read_or_refused(read, field):
    """None where it is refused, by the field's name or an element's."""
    refused = None
    try:
        return read()
    except SeamError as error:
        refused = error
    assert refused.violations[0].field.startswith(field)
    return None


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_bytes_come_back_as_they_went(elements):
    assert decode_bytes("text", encode_bytes(elements), len(elements)) == elements


@given(st.lists(st.text(max_size=20), max_size=20), SHAPES, st.booleans())
def test_texts_come_back_as_they_went_raw_or_typed(texts, shape, raw):
    message = pb.ModelInferRequest.FromString(
        request([text.encode() for text in texts], shape(len(texts)), raw=raw).SerializeToString()
    )
    read = read_inputs(message, [TEXT, FLAG], 64)
    assert read_texts(read["text"]) == tuple(texts)
    assert read["text"].shape == tuple(shape(len(texts)))


@given(st.binary(max_size=64), st.integers(0, 70))
def test_any_bytes_are_read_whole_or_refused(raw, count):
    elements = read_or_refused(lambda: decode_bytes("text", raw, count), "text")
    if elements is not None:
        assert len(elements) == count
        assert encode_bytes(elements) == raw


@given(st.lists(st.integers(-(1 << 62), 1 << 62), max_size=4), st.binary(max_size=40), st.booleans())
def test_any_shape_over_any_bytes_is_read_or_refused(shape, raw, typed):
    message = pb.ModelInferRequest()
    tensor = message.inputs.add(name="text", datatype="BYTES", shape=shape)
    if typed:
        tensor.contents.bytes_contents.extend([raw])
    else:
        message.raw_input_contents.append(raw)
    texts = read_or_refused(lambda: read_texts(read_inputs(message, [TEXT], 8)["text"]), "text")
    if texts is not None:
        assert len(texts) == shape[0] <= 8


def test_the_count_is_refused_before_anything_is_read():
    with pytest.raises(TooManyTexts, match="at most 2"):
        read_inputs(request([b"a"] * 3, [3], raw=True), [TEXT], 2)


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("raw", [True, False])
def test_a_flag_is_read_raw_or_typed(value, raw):
    message = pb.ModelInferRequest()
    tensor = message.inputs.add(name="flag", datatype="BOOL", shape=[1, 1])
    if raw:
        message.raw_input_contents.append(np.array([value]).tobytes())
    else:
        tensor.contents.bool_contents.append(value)
    assert read_flag(read_inputs(message, [FLAG], 8)["flag"]) is value


def test_a_flag_without_an_element_is_refused():
    message = pb.ModelInferRequest()
    message.inputs.add(name="flag", datatype="BOOL", shape=[1])
    with pytest.raises(InvalidField, match="flag"):
        read_flag(read_inputs(message, [FLAG], 8)["flag"])


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3), min_size=1, max_size=8))
def test_numbers_are_told_in_little_endian_rows(rows):
    values = np.asarray(rows, np.float32)
    tensor = floats_tensor(values)
    assert (tensor.datatype, tensor.shape) == ("FP32", values.shape)
    np.testing.assert_array_equal(np.frombuffer(tensor.raw, "<f4").reshape(tensor.shape), values)


def test_texts_counts_and_flags_are_told_by_their_types():
    assert texts_tensor(["é", ""], (2,)).raw == b"\2\0\0\0\xc3\xa9\0\0\0\0"
    assert counts_tensor([1, 258], (2, 1)).raw == b"\1\0\0\0\2\1\0\0"
    assert flags_tensor([True, False], (2,)).raw == b"\1\0"


@given(st.one_of(st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(allow_nan=False), st.text()))
def test_a_parameter_has_the_value_that_was_put_in(value):
    message = pb.ModelInferRequest()
    set_parameter(message.parameters["name"], value)
    assert values_of(message.parameters) == {"name": value}


def test_a_parameter_without_a_value_is_refused():
    message = pb.ModelInferRequest()
    message.parameters["name"].SetInParent()
    with pytest.raises(InvalidField, match="no value"):
        values_of(message.parameters)


@given(st.integers(-(1 << 70), 1 << 70))
def test_a_whole_number_may_come_as_text(number):
    low, high = -(1 << 63), (1 << 63) - 1
    for value in (number, str(number)):
        if low <= number <= high:
            assert integer_of("n", value, low, high) == number
        else:
            with pytest.raises(InvalidField, match="n: must be in"):
                integer_of("n", value, low, high)


@pytest.mark.parametrize("value", [True, None, [], {}, 1.5, "1.5", "", "x", "9" * 5000, float("inf")])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(InvalidField, match="whole number"):
        integer_of("n", value, 0, 10)


@given(st.floats(allow_nan=False))
def test_a_number_may_come_as_text(number):
    assert number_of("n", number) == number_of("n", repr(number)) == number


@pytest.mark.parametrize("value", [True, [], "", "x", 10**400])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InvalidField, match="must be a number"):
        number_of("n", value)


def test_what_nobody_took_is_refused_with_what_there_is():
    values = Given({"top_p": 0.5, "topp": 0.5})
    values.number("top_p")
    with pytest.raises(InvalidField, match="topp: is not known here: there is top_p"):
        values.check_all_taken()


@given(st.text())
def test_any_text_is_read_as_json_or_refused(text):
    value = read_or_refused(lambda: read_json("field", text, 1000), "field")
    json.dumps(value, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ("work.texts[3]", "text[3]"),
        ("work.texts", "text"),
        ("work.inputs[2].text", "text[2]"),
        ("work.inputs[2].text_pair", "text_pair[2]"),
        ("work.inputs[2]", "text[2]"),
        ("work.prompt", "messages"),
        ("work.prompt.text", "text_input"),
        ("work.prompt.chat.messages[1].content", "messages[1].content"),
        ("work.prompt.chat", "messages"),
        ("work.sampling.top_p", "top_p"),
        ("work.sampling.logit_bias[7]", "logit_bias[7]"),
        ("work.stop.max_output_tokens", "max_tokens"),
        ("work.stop.stop_strings[0]", "stop[0]"),
        ("work.stop.stop_token_ids[0]", "stop_token_ids[0]"),
        ("work.format.json_schema", "structured_outputs.json"),
        ("work.format.choice.texts[1]", "structured_outputs.choice[1]"),
        ("work.dimension_count", "dimensions"),
        ("context.timeout", "timeout"),
        ("context.tenant_key", "tenant_key"),
        ("spec.name", "model_name"),
        ("spec.source", "config.parameters.source"),
        ("model", "model_name"),
    ],
)
def test_a_field_is_told_by_the_callers_name_for_it(inside, told):
    with pytest.raises(InvalidField) as raised, naming_tensors("messages"):
        raise InvalidField.of_field(inside, "is wrong")
    assert raised.value.violations == (FieldViolation(told, "is wrong"),)
    assert raised.value.message == f"{told}: is wrong"


def test_words_that_begin_with_no_field_stay():
    with pytest.raises(SeamError) as raised, naming_tensors():
        raise SeamError("model chat is loading", retry_after=2.0)
    assert (raised.value.message, raised.value.retry_after) == ("model chat is loading", 2.0)
