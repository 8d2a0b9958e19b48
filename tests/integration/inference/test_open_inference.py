"""The Open Inference Protocol over a real connection, by stubs generated from our own description of it."""

import asyncio
import json

import grpc
import numpy as np
import pytest
from inference import open_inference_pb2 as oip
from seam.inference.v1 import inference_service_pb2 as pb
from support.open_inference import Stream, infer, is_final, parameters, said, tensors, text_of

from .conftest import running
from .test_calls import asked as asked_by_contract
from .test_calls import refused


async def generated(served, **fields):
    """The same by the contract's own call: text, and how it ended."""
    events = [event async for event in served.inference.Generate(asked_by_contract(**fields))]
    return "".join(event.tokens.text for event in events), events[-1].finished


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
