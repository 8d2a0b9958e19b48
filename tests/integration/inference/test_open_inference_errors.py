"""What is wrong with a request of the Open Inference Protocol is told by the name that the caller gave it."""

import grpc
import pytest
from support.open_inference import infer, said

from .test_calls import refused


def changed(change):
    request = infer("score", {"text": ["a", "b"], "text_pair": ["c", "d"]})
    change(request)
    return request


def raw_cut(request):
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


def raw_longer(request):
    request.raw_input_contents[0] += b"xy"


def other_type(request):
    request.inputs[0].datatype = "FP32"


def other_shape(request):
    request.inputs[0].shape[:] = [1, 2]


def huge_shape(request):
    request.inputs[0].shape[:] = [1 << 40]


def negative_shape(request):
    request.inputs[0].shape[:] = [-1]


def one_raw_less(request):
    del request.raw_input_contents[1]


def both_contents(request):
    request.inputs[1].contents.bytes_contents.append(b"c")


def twice(request):
    request.inputs[1].name = "text"


def unknown_input(request):
    request.inputs[1].name = "texts"


def no_text(request):
    del request.inputs[0], request.raw_input_contents[0]


def fewer_pairs(request):
    request.inputs[1].shape[:] = [1]
    request.raw_input_contents[1] = b"\1\0\0\0c"


def not_text(request):
    request.raw_input_contents[0] = b"\1\0\0\0a\2\0\0\0\xff\xff"


def shared_memory(request):
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"


def classification(request):
    request.outputs.add(name="scores").parameters["classification"].int64_param = 2


def unknown_output(request):
    request.outputs.add(name="logits")


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (changed(raw_cut), "INVALID_ARGUMENT", "text"),
        (changed(raw_longer), "INVALID_ARGUMENT", "text"),
        (changed(other_type), "INVALID_ARGUMENT", "text"),
        (changed(other_shape), "INVALID_ARGUMENT", "text"),
        (changed(huge_shape), "INVALID_ARGUMENT", "text"),
        (changed(negative_shape), "INVALID_ARGUMENT", "text"),
        (changed(one_raw_less), "INVALID_ARGUMENT", "raw_input_contents"),
        (changed(both_contents), "INVALID_ARGUMENT", "text_pair"),
        (changed(twice), "INVALID_ARGUMENT", "inputs[1]"),
        (changed(unknown_input), "INVALID_ARGUMENT", "inputs[1]"),
        (changed(no_text), "INVALID_ARGUMENT", "text"),
        (changed(fewer_pairs), "INVALID_ARGUMENT", "text_pair"),
        (changed(not_text), "INVALID_ARGUMENT", "text[1]"),
        (changed(shared_memory), "UNIMPLEMENTED", "text"),
        (changed(classification), "UNIMPLEMENTED", "scores"),
        (changed(unknown_output), "INVALID_ARGUMENT", "outputs[0]"),
        (infer("score", {"text": [], "text_pair": []}), "INVALID_ARGUMENT", "text"),
        (infer("score", {"text": ["a"], "text_pair": [""]}), "INVALID_ARGUMENT", "text_pair[0]"),
        (infer("score", {"text": ["a"]}, activation="relu"), "INVALID_ARGUMENT", "activation"),
        (infer("embed", {"text": ["x"] * 65}), "INVALID_ARGUMENT", "text"),
        (infer("embed", {"text": ["a", ""]}), "INVALID_ARGUMENT", "text[1]"),
        (infer("embed", {"text": ["a"]}, dimensions=9), "INVALID_ARGUMENT", "dimensions"),
        (infer("embed", {"text": ["a"]}, normalise=True), "INVALID_ARGUMENT", "normalise"),
        (infer("embed", {"text": ["a"]}, sequence_id=1), "UNIMPLEMENTED", "sequence_id"),
        (infer("embed", {"text": ["a"]}, priority=4), "INVALID_ARGUMENT", "priority"),
        (infer("embed", {"text": ["a"]}, timeout=-1), "INVALID_ARGUMENT", "timeout"),
        (infer("embed", {"text": ["a"]}, tenant_key="x" * 257), "INVALID_ARGUMENT", "tenant_key"),
        (infer("nobody"), "NOT_FOUND", "model_name"),
        (infer("chat"), "INVALID_ARGUMENT", "text_input"),
        (infer("chat", {"text_input": ["a"], "messages": ["[]"]}), "INVALID_ARGUMENT", "text_input"),
        (infer("chat", {"text_input": ["a", "b"]}), "INVALID_ARGUMENT", "text_input"),
        (infer("chat", {"text_input": ["x" * 70_000]}), "INVALID_ARGUMENT", "text_input"),
        (infer("chat", {"messages": ["[]"]}), "INVALID_ARGUMENT", "messages"),
        (infer("chat", {"messages": ["{"]}), "INVALID_ARGUMENT", "messages"),
        (infer("chat", {"messages": ["[" * 100_000]}), "INVALID_ARGUMENT", "messages"),
        (infer("chat", {"messages": ['[{"role": "user", "content": "\\ud800"}]']}), "INVALID_ARGUMENT", "messages"),
        (infer("chat", {"messages": ['[{"role": "user"}]']}), "INVALID_ARGUMENT", "messages[0]"),
        (infer("chat", {"messages": ['[{"role": "user", "content": ""}]']}), "INVALID_ARGUMENT", "messages[0].content"),
        (said(temperature=-1.0), "INVALID_ARGUMENT", "temperature"),
        (said(temperature="warm"), "INVALID_ARGUMENT", "temperature"),
        (said(top_p=2.0), "INVALID_ARGUMENT", "top_p"),
        (said(top_k=1.5), "INVALID_ARGUMENT", "top_k"),
        (said(seed=-1), "INVALID_ARGUMENT", "seed"),
        (said(tokens=0), "INVALID_ARGUMENT", "max_tokens"),
        (said(tokens=1 << 33), "INVALID_ARGUMENT", "max_tokens"),
        (said(stop=""), "INVALID_ARGUMENT", "stop[0]"),
        (said(stream=True), "INVALID_ARGUMENT", "stream"),
        (said(exclude_input_in_output=False), "UNIMPLEMENTED", "exclude_input_in_output"),
        (said(sampling_parameters="[1]"), "INVALID_ARGUMENT", "sampling_parameters"),
        (said(sampling_parameters='{"logit_bias": [1]}'), "INVALID_ARGUMENT", "logit_bias"),
        (said(sampling_parameters='{"stop_token_ids": [999]}'), "INVALID_ARGUMENT", "stop_token_ids[0]"),
        (
            said(sampling_parameters='{"structured_outputs": {"grammar": "x"}}'),
            "INVALID_ARGUMENT",
            "structured_outputs.grammar",
        ),
        (
            infer("chat", {"text_input": ["a"]}, sampling_parameters='{"structured_outputs": {"regex": "("}}'),
            "INVALID_ARGUMENT",
            "structured_outputs.regex",
        ),
        (said(sampling_parameters='{"temperature": NaN}'), "INVALID_ARGUMENT", "temperature"),
    ],
)
async def test_what_is_wrong_is_told_by_the_name_that_the_caller_gave_it(stub, request_, code, field):
    got, details = await refused(stub.ModelInfer(request_))
    (violation,) = details["BadRequest"].field_violations
    assert (got.name, violation.field) == (code, field)
    assert violation.description


async def test_methods_that_are_left_out_are_not_implemented(served):
    method = served.channel.unary_unary("/inference.GRPCInferenceService/ModelStatistics")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await method(b"")
    assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED
