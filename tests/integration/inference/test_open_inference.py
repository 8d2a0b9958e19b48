"""The Open Inference Protocol over a real connection, by stubs generated from our own description of it."""

import asyncio
import json
import struct

import grpc
import numpy as np
import pytest
from inference import open_inference_pb2 as oip
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from inference_svc.wire.calls import WINDOW
from inference_svc.wire.open_inference.streaming import MAX_IN_FLIGHT
from seam.inference.v1 import inference_service_pb2 as pb
from seam.inference.v1 import model_service_pb2 as model_pb
from support.open_inference import set_parameter

from .conftest import running
from .test_calls import asked as asked_by_contract
from .test_calls import idle, refused


def infer(model, raw=None, outputs=(), request_id="", **parameters):
    """A request; `raw` maps inputs to texts, flags, or (shape, texts)."""
    request = oip.ModelInferRequest(model_name=model, id=request_id)
    for name, value in (raw or {}).items():
        shape, elements = value if isinstance(value, tuple) else ([len(value)], value)
        if isinstance(elements[0] if elements else "", bool):
            request.inputs.add(name=name, datatype="BOOL", shape=shape)
            request.raw_input_contents.append(np.asarray(elements).tobytes())
        else:
            request.inputs.add(name=name, datatype="BYTES", shape=shape)
            encoded = [text.encode() for text in elements]
            request.raw_input_contents.append(b"".join(struct.pack("<I", len(each)) + each for each in encoded))
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in parameters.items():
        set_parameter(request.parameters[name], value)
    return request


def said(text="hello", tokens=8, **more):
    return infer("chat", {"text_input": [text]}, max_tokens=tokens, ignore_eos=True, **more)


def tensors(response):
    """The outputs by name, as arrays; text as a list."""
    read = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        match output.datatype:
            case "BYTES":
                texts = []
                while raw:
                    (length,) = struct.unpack_from("<I", raw)
                    texts.append(raw[4 : 4 + length].decode())
                    raw = raw[4 + length :]
                read[output.name] = np.asarray(texts, object).reshape(list(output.shape))
            case datatype:
                kind = {"FP32": "<f4", "UINT32": "<u4", "BOOL": "?"}[datatype]
                read[output.name] = np.frombuffer(raw, kind).reshape(list(output.shape))
    return read


def parameters(response):
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()}


@pytest.fixture
def stub(served):
    return GRPCInferenceServiceStub(served.channel)


async def generated(served, **fields):
    """The same by the contract's own call: text, and how it ended."""
    events = [event async for event in served.inference.Generate(asked_by_contract(**fields))]
    return "".join(event.tokens.text for event in events), events[-1].finished


class Stream:
    """A ModelStreamInfer whose responses are gathered by the id of their request."""

    def __init__(self, channel):
        self.call = GRPCInferenceServiceStub(channel).ModelStreamInfer()
        self.seen = {}

    async def send(self, *requests):
        for request in requests:
            await self.call.write(request)

    async def read(self):
        response = await self.call.read()
        if response is grpc.aio.EOF:
            return None
        self.seen.setdefault(response.infer_response.id, []).append(response)
        return response

    async def rest(self):
        await self.call.done_writing()
        while await self.read() is not None:
            pass
        return self.seen

    async def until_final(self, request_id):
        while not self.seen.get(request_id) or not is_final(self.seen[request_id][-1]):
            assert await self.read() is not None
        return self.seen[request_id]


def is_final(response):
    return parameters(response.infer_response)["triton_final_response"]


def text_of(responses):
    pieces = [tensors(response.infer_response).get("text_output") for response in responses]
    return "".join(piece[0] for piece in pieces if piece is not None)


# --- the server and its models ---------------------------------------------------------------------------------------


async def test_the_server_tells_who_it_is_and_what_its_models_take(stub):
    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
    assert (await stub.ModelReady(oip.ModelReadyRequest(name="embed"))).ready
    assert (await stub.ModelReady(oip.ModelReadyRequest(name="embed", version="1"))).ready
    assert not (await stub.ModelReady(oip.ModelReadyRequest(name="embed", version="2"))).ready
    assert not (await stub.ModelReady(oip.ModelReadyRequest(name="nobody"))).ready
    assert (await stub.ServerMetadata(oip.ServerMetadataRequest())).name == "seam-inference"
    told = await stub.ModelMetadata(oip.ModelMetadataRequest(name="score"))
    assert [(each.name, each.datatype, list(each.shape)) for each in told.inputs] == [
        ("text", "BYTES", [-1]),
        ("text_pair", "BYTES", [-1]),
    ]
    assert [(each.name, each.datatype, list(each.shape)) for each in told.outputs] == [
        ("scores", "FP32", [-1, 2]),
        ("labels", "BYTES", [2]),
        ("input_token_count", "UINT32", [-1]),
        ("truncated", "BOOL", [-1]),
    ]
    config = (await stub.ModelConfig(oip.ModelConfigRequest(name="score"))).config
    assert [each.optional for each in config.input] == [False, True]
    assert json.loads(config.parameters["labels"].string_value) == ["no", "yes"]
    assert config.parameters["max_texts"].string_value == "64"
    assert (await stub.ModelConfig(oip.ModelConfigRequest(name="chat"))).config.model_transaction_policy.decoupled
    index = (await stub.RepositoryIndex(oip.RepositoryIndexRequest())).models
    assert [(each.name, each.version, each.state) for each in index] == [
        ("chat", "1", "READY"),
        ("embed", "1", "READY"),
        ("score", "1", "READY"),
    ]


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig"])
async def test_a_model_or_version_that_is_not_there_is_not_found(stub, method):
    kind = getattr(oip, f"{method}Request")
    code, details = await refused(getattr(stub, method)(kind(name="nobody")))
    assert (code, details["BadRequest"].field_violations[0].field) == (grpc.StatusCode.NOT_FOUND, "name")
    code, details = await refused(getattr(stub, method)(kind(name="chat", version="2")))
    assert (code, details["BadRequest"].field_violations[0].field) == (grpc.StatusCode.NOT_FOUND, "version")


async def test_a_server_that_leaves_is_not_ready_and_takes_no_work(served, stub):
    await served.server.leave()
    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    assert not (await stub.ServerReady(oip.ServerReadyRequest())).ready
    assert not (await stub.ModelReady(oip.ModelReadyRequest(name="embed"))).ready
    code, details = await refused(stub.ModelInfer(infer("embed", {"text": ["a"]})))
    assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert "RetryInfo" in details


# --- vectors and scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[3], [3, 1]])
async def test_vectors_are_those_of_the_contracts_own_call(served, stub, shape):
    texts = ["a", "bb", "ccc é"]
    response = await stub.ModelInfer(infer("embed", {"text": (shape, texts)}, request_id="mine"))
    own = (await served.inference.Embed(pb.EmbedRequest(model="embed", work={"texts": texts}))).embeddings
    read = tensors(response)
    np.testing.assert_array_equal(read["embedding"], np.asarray([each.values for each in own], np.float32))
    assert list(read["input_token_count"].ravel()) == [each.input_token_count for each in own]
    assert read["truncated"].shape == tuple(shape)
    assert (response.model_name, response.model_version, response.id) == ("embed", "1", "mine")


async def test_typed_contents_are_as_good_as_raw_ones(stub):
    typed = oip.ModelInferRequest(model_name="embed")
    typed.inputs.add(name="text", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"a", b"bb"])
    raw = infer("embed", {"text": ["a", "bb"]})
    assert await stub.ModelInfer(typed) == await stub.ModelInfer(raw)


async def test_only_the_outputs_that_are_asked_for_come_in_their_order(stub):
    response = await stub.ModelInfer(infer("embed", {"text": ["a"]}, outputs=["truncated", "embedding"]))
    assert [output.name for output in response.outputs] == ["truncated", "embedding"]
    assert len(response.raw_output_contents) == 2


async def test_vectors_are_cut_and_normalised_as_asked(served, stub):
    request = infer("embed", {"text": ["abc"]}, dimensions=4, normalize=False)
    own = await served.inference.Embed(
        pb.EmbedRequest(model="embed", work={"texts": ["abc"], "dimension_count": 4, "normalize": False})
    )
    np.testing.assert_array_equal(tensors(await stub.ModelInfer(request))["embedding"][0], own.embeddings[0].values)


async def test_scores_have_their_labels_and_take_pairs(served, stub):
    texts, pairs = ["q", "q"], ["one", "two"]
    response = await stub.ModelInfer(infer("score", {"text": texts, "text_pair": pairs}, activation="softmax"))
    own = await served.inference.Score(
        pb.ScoreRequest(
            model="score",
            work={
                "inputs": [{"text": text, "text_pair": pair} for text, pair in zip(texts, pairs, strict=True)],
                "activation": "SCORE_ACTIVATION_SOFTMAX",
            },
        )
    )
    read = tensors(response)
    assert list(read["labels"]) == ["no", "yes"]
    expected = [[label.score for label in each.labels] for each in own.scores]
    np.testing.assert_allclose(read["scores"], expected, atol=1e-6)


# --- generation ------------------------------------------------------------------------------------------------------


async def test_a_whole_text_is_that_of_the_contracts_own_call(served, stub):
    text, finished = await generated(served, tokens=200)
    response = await stub.ModelInfer(said(tokens=200))
    read = tensors(response)
    assert read["text_output"].tolist() == [text]
    assert read["finish_reason"].tolist() == ["length"]
    assert read["num_input_tokens"].tolist() == [finished.usage.input_token_count]
    assert read["num_output_tokens"].tolist() == [200]


async def test_messages_and_sampling_parameters_come_as_json(served, stub):
    messages = [{"role": "user", "content": "hi é"}]
    work = {
        "prompt": {"chat": {"messages": messages}},
        "sampling": {"temperature": 0.5, "seed": 7},
        "stop": {"max_output_tokens": 12, "ignore_end_token": True},
    }
    events = [e async for e in served.inference.Generate(pb.GenerateRequest(model="chat", work=work))]
    expected = "".join(event.tokens.text for event in events)
    settings = {"temperature": "0.5", "seed": 7, "max_tokens": "12", "ignore_eos": True, "stop": None}
    as_tensor = infer("chat", {"messages": [json.dumps(messages)], "sampling_parameters": [json.dumps(settings)]})
    response = await stub.ModelInfer(as_tensor)
    assert tensors(response)["text_output"].tolist() == [expected]
    assert parameters(response)["seed"] == 7
    both = infer(
        "chat", {"messages": ([1, 1], [json.dumps(messages)])}, sampling_parameters=json.dumps(settings), seed=8
    )
    response = await stub.ModelInfer(both)
    assert parameters(response)["seed"] == 8
    assert tensors(response)["text_output"].shape == (1, 1)


async def test_stop_strings_and_forms_hold(stub):
    whole = tensors(await stub.ModelInfer(said(tokens=40)))["text_output"][0]
    stop = whole[10:13]
    response = await stub.ModelInfer(said(tokens=40, stop=stop))
    assert tensors(response)["text_output"][0] == whole[: whole.index(stop)]
    assert tensors(response)["finish_reason"].tolist() == ["stop"]
    assert parameters(response)["stop_string"] == stop
    form = {"max_tokens": 40, "structured_outputs": {"choice": ["tea", "coffee"]}}
    chosen = await stub.ModelInfer(infer("chat", {"text_input": ["hi"], "sampling_parameters": [json.dumps(form)]}))
    assert tensors(chosen)["text_output"][0] in ("tea", "coffee")


async def test_a_stream_gives_the_text_in_pieces_and_says_which_response_is_the_last(served):
    text, _ = await generated(served, tokens=200)
    stream = Stream(served.channel)
    await stream.send(said(tokens=200, request_id="one"))
    responses = (await stream.rest())["one"]
    assert text_of(responses) == text
    assert len(responses) > 2
    assert [is_final(response) for response in responses] == [False] * (len(responses) - 1) + [True]
    last = tensors(responses[-1].infer_response)
    assert (last["finish_reason"].tolist(), last["num_output_tokens"].tolist()) == (["length"], [200])


async def test_an_empty_final_response_comes_when_it_is_asked_for(served):
    stream = Stream(served.channel)
    ends = {"triton_enable_empty_final_response": True}
    await stream.send(
        said(tokens=20, request_id="text", **ends), infer("embed", {"text": ["a"]}, request_id="v", **ends)
    )
    seen = await stream.rest()
    for responses in seen.values():
        assert [is_final(response) for response in responses] == [False] * (len(responses) - 1) + [True]
        assert not responses[-1].infer_response.outputs
    assert len(tensors(seen["text"][-2].infer_response)["finish_reason"]) == 1
    assert tensors(seen["v"][0].infer_response)["embedding"].shape == (1, 8)


async def test_a_stream_gives_a_whole_text_when_pieces_are_not_wanted(served):
    text, _ = await generated(served, tokens=100)
    stream = Stream(served.channel)
    await stream.send(
        infer(
            "chat",
            {"text_input": ["hello"], "stream": [False], "exclude_input_in_output": [True]},
            outputs=["text_output"],
            max_tokens=100,
            ignore_eos=True,
        )
    )
    (response,) = (await stream.rest())[""]
    assert tensors(response.infer_response)["text_output"].tolist() == [text]


async def test_requests_of_one_stream_are_answered_side_by_side_and_fail_alone(served):
    stream = Stream(served.channel)
    requests = [said(f"prompt {n}", tokens=30, request_id=f"t{n}") for n in range(20)]
    requests += [infer("embed", {"text": [f"text {n}"]}, request_id=f"v{n}") for n in range(20)]
    requests[7:7] = [said("\x01", request_id="poison"), infer("nobody", request_id="lost")]
    requests.append(infer("embed", {"text": [""]}, request_id="empty"))
    await stream.send(*requests)
    seen = await stream.rest()
    assert len(seen) == len(requests)
    for n in range(20):
        text, _ = await generated(served, text=f"prompt {n}", tokens=30)
        assert text_of(seen[f"t{n}"]) == text
        assert not seen[f"v{n}"][0].error_message
    for request_id, code, reason in (
        ("poison", "INTERNAL", "STEP_FAILED"),
        ("lost", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("empty", "INVALID_ARGUMENT", "TEXT_EMPTY"),
    ):
        (told,) = seen[request_id]
        assert told.error_message.startswith(f"{code} {reason}: ")
        assert is_final(told)
        assert parameters(told.infer_response)["error_reason"] == reason
    assert "text[0]" in seen["empty"][0].error_message


async def test_a_refusal_in_a_stream_says_when_to_try_again():
    async with running(max_waiting_sequences=1, slots=1) as served:
        served.gate.shut()
        stream = Stream(served.channel)
        await stream.send(said(tokens=100, request_id="0"))
        await asyncio.to_thread(served.gate.wait_until_blocked)
        await stream.send(*[said(tokens=100, request_id=str(n)) for n in range(1, 4)])
        while (told := await stream.read()).error_message == "":
            pass
        assert parameters(told.infer_response)["error_code"] == "RESOURCE_EXHAUSTED"
        assert parameters(told.infer_response)["retry_after_ms"] > 0
        served.gate.open()
        await stream.rest()


# --- what a request costs when nobody wants it -----------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancel_frees_the_slot(streamed):
    async with running(slots=1) as served:
        stub = GRPCInferenceServiceStub(served.channel)
        served.gate.shut()
        if streamed:
            stream = Stream(served.channel)
            await stream.send(*[said(tokens=4000, request_id=str(n)) for n in range(5)])
            call = stream.call
        else:
            call = stub.ModelInfer(said(tokens=4000))
        await asyncio.to_thread(served.gate.wait_until_blocked)
        call.cancel()
        following = stub.ModelInfer(said(tokens=3))
        served.gate.open()
        await following
        await idle(served)
        assert served.runner.step_count < 1000  # of the 4,000 tokens asked; steps take no time here, a cancel does


async def test_a_client_that_hangs_up_frees_its_slots(served):
    served.gate.shut()
    async with grpc.aio.insecure_channel(served.server.address) as own:
        stream = Stream(own)
        await stream.send(*[said(tokens=4000, request_id=str(n)) for n in range(5)])
        await asyncio.to_thread(served.gate.wait_until_blocked)
    served.gate.open()
    await idle(served)
    assert served.runner.step_count < 1000  # as above


async def test_a_stream_that_is_not_read_stops_being_computed(served):
    """What is under way is the window of each, and what the transport's own buffers take."""
    stream = Stream(served.channel)
    filling = said("x" * 60, tokens=700, request_id="i" * 60_000)  # so that few responses fill the transport
    await stream.send(filling, filling)
    await still(lambda: served.runner.step_count)
    computed = served.runner.computed_tokens
    assert computed < 2 * (60 + WINDOW) + 400
    other = await GRPCInferenceServiceStub(served.channel).ModelInfer(said(tokens=500))
    assert tensors(other)["num_output_tokens"].tolist() == [500]
    seen = await stream.rest()
    assert sum(len(text_of([each])) for each in seen["i" * 60_000]) == 1400


async def test_no_more_requests_are_read_than_may_be_in_flight(served):
    served.gate.shut()
    stream = Stream(served.channel)
    sending = asyncio.create_task(stream.send(*[said(tokens=1, request_id=str(n)) for n in range(MAX_IN_FLIGHT + 50)]))
    await asyncio.to_thread(served.gate.wait_until_blocked)
    await still(lambda: served.server.engine.live_request_count >= MAX_IN_FLIGHT)
    await GRPCInferenceServiceStub(served.channel).ServerLive(oip.ServerLiveRequest())
    assert served.server.engine.live_request_count == MAX_IN_FLIGHT
    served.gate.open()
    await sending
    assert len(await stream.rest()) == MAX_IN_FLIGHT + 50


async def still(count):
    """Returns when a count has not changed for a while: nothing goes on that would change it."""
    async with asyncio.timeout(60):
        seen, since = count(), 0
        while since < 20:
            await asyncio.sleep(0.02)
            now = count()
            seen, since = now, since + 1 if now == seen and now else 0


async def test_a_timeout_ends_a_request_with_its_reason(served, stub):
    served.gate.shut()
    late = stub.ModelInfer(said(tokens=4000, timeout=50_000))
    await asyncio.to_thread(served.gate.wait_until_blocked)
    await asyncio.sleep(0.06)  # the deadline itself, not a guess at how long something takes
    served.gate.open()
    code, details = await refused(late)
    assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED")


async def test_a_stream_of_a_server_that_leaves_ends_after_its_answers(served):
    stream = Stream(served.channel)
    served.gate.shut()
    await stream.send(said(tokens=50, request_id="old"))
    await asyncio.to_thread(served.gate.wait_until_blocked)
    await served.server.leave()
    served.gate.open()
    await stream.until_final("old")
    assert len(text_of(stream.seen["old"])) == 50
    assert await stream.call.code() == grpc.StatusCode.UNAVAILABLE


# --- errors ----------------------------------------------------------------------------------------------------------


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


# --- the repository --------------------------------------------------------------------------------------------------


def described(**facts):
    config = {"parameters": {name: {"string_value": value} for name, value in facts.items()}}
    request = oip.RepositoryModelLoadRequest(model_name="more")
    request.parameters["config"].string_param = json.dumps(config)
    return request


async def test_models_are_loaded_and_unloaded_while_others_serve(stub):
    await stub.RepositoryModelLoad(described(task="embed", source="embedded:minilm", idle_sleep_seconds="300"))
    assert (await stub.ModelReady(oip.ModelReadyRequest(name="more"))).ready
    response = await stub.ModelInfer(infer("more", {"text": ["a"]}))
    assert tensors(response)["embedding"].shape == (1, 8)
    await stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="more"))
    unload = oip.RepositoryModelUnloadRequest(model_name="more")
    unload.parameters["unload_dependents"].bool_param = False
    await stub.RepositoryModelUnload(unload)
    assert not (await stub.ModelReady(oip.ModelReadyRequest(name="more"))).ready
    code, _ = await refused(stub.RepositoryModelUnload(unload))
    assert code == grpc.StatusCode.NOT_FOUND


async def test_a_model_that_sleeps_is_ready_and_a_load_wakes_it(served, stub):
    await served.models.SleepModel(model_pb.SleepModelRequest(name="embed"))
    (entry,) = [
        m for m in (await stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True))).models if m.name == "embed"
    ]
    assert (entry.state, "sleeps" in entry.reason) == ("READY", True)
    assert (await stub.ModelReady(oip.ModelReadyRequest(name="embed"))).ready
    await stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="embed"))
    index = {m.name: m for m in (await stub.RepositoryIndex(oip.RepositoryIndexRequest())).models}
    assert (index["embed"].state, index["embed"].reason) == ("READY", "")


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (described(task="dream", source="x"), "INVALID_ARGUMENT", "config.parameters.task"),
        (described(task="embed", source=""), "INVALID_ARGUMENT", "config.parameters.source"),
        (described(task="embed", source="x", slots="2"), "INVALID_ARGUMENT", "slots"),
        (described(task="generate", source="x", slot_count="many"), "INVALID_ARGUMENT", "config.parameters.slot_count"),
        (
            described(task="embed", source="x", idle_sleep_seconds="x"),
            "INVALID_ARGUMENT",
            "config.parameters.idle_sleep_seconds",
        ),
        (oip.RepositoryModelLoadRequest(model_name="nobody"), "NOT_FOUND", "model_name"),
        (oip.RepositoryModelLoadRequest(model_name="x", repository_name="y"), "INVALID_ARGUMENT", "repository_name"),
    ],
)
async def test_a_load_that_makes_no_sense_is_refused(stub, request_, code, field):
    got, details = await refused(stub.RepositoryModelLoad(request_))
    assert (got.name, details["BadRequest"].field_violations[0].field) == (code, field)


async def test_models_are_not_changed_where_the_settings_do_not_allow_it():
    async with running(allow_model_control=False) as served:
        stub = GRPCInferenceServiceStub(served.channel)
        for call in (
            stub.RepositoryModelLoad(described(task="embed", source="x")),
            stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="embed")),
        ):
            code, details = await refused(call)
            assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.PERMISSION_DENIED, "MODEL_CONTROL_OFF")
