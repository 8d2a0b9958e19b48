"""The tritonclient package, unmodified, in an environment and a process of its own, against a real server."""

import asyncio
import json

import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from inference import model_config_pb2, open_inference_pb2
from seam.inference.v1 import inference_service_pb2 as pb
from support.triton import ROOT, triton_interpreter

from .test_calls import idle

PROGRAM = ROOT / "tests/support/triton_program.py"
TEXTS = ["to sew", "to stitch", "to fly", "é " * 20]
PROMPTS = ["one", "two", "three"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test makes the environment


@pytest.fixture(scope="session")
def interpreter():
    return triton_interpreter()


@pytest.fixture
def program(interpreter, served):
    async def run(*parts):
        process = await asyncio.create_subprocess_exec(
            interpreter,
            PROGRAM,
            served.server.address,
            *parts,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return json.loads(output)

    return run


async def own_vectors(served):
    response = await served.inference.Embed(pb.EmbedRequest(model="embed", work={"texts": TEXTS}))
    return [list(each.values) for each in response.embeddings]


async def own_text(served, prompt, **work):
    work = {"prompt": {"text": prompt}, **work}
    calls = served.inference.Generate(pb.GenerateRequest(model="chat", work=work))
    return "".join([event.tokens.text async for event in calls])


async def own_sampled(served):
    settings = {"sampling": {"temperature": 0.7, "seed": 11}, "stop": {"max_output_tokens": 40}}
    return {prompt: await own_text(served, prompt, **settings) for prompt in PROMPTS}


async def test_it_learns_about_the_server_and_its_models(program):
    about = (await program("about"))["about"]
    assert (about["live"], about["ready"], about["model_ready"]) == (True, True, [True, False])
    assert about["server"]["name"] == "seam-inference"
    assert about["embed"]["outputs"][0] == {"name": "embedding", "datatype": "FP32", "shape": ["-1", "8"]}
    assert about["config"]["config"]["parameters"]["labels"] == {"string_value": '["no", "yes"]'}
    assert [model["state"] for model in about["index"]["models"]] == ["READY"] * 3


async def test_it_infers_what_the_contracts_own_calls_give(program, served):
    inferred = (await program("inferred"))["inferred"]
    vectors = await own_vectors(served)
    np.testing.assert_allclose(inferred["vectors"], vectors, atol=1e-6)
    np.testing.assert_allclose(inferred["later"], vectors, atol=1e-6)
    inputs = [{"text": "q", "text_pair": "a"}, {"text": "q", "text_pair": "b"}]
    scored = await served.inference.Score(pb.ScoreRequest(model="score", work={"inputs": inputs}))
    expected = [[label.score for label in each.labels] for each in scored.scores]
    np.testing.assert_allclose(inferred["scores"], expected, atol=1e-6)
    assert (inferred["labels"], inferred["outputs"]) == (["no", "yes"], ["scores", "labels"])
    text = await own_text(served, "hello", stop={"max_output_tokens": 30, "ignore_end_token": True})
    assert (inferred["text"], inferred["counts"], inferred["id"]) == (text, [5, 30], "v1")


async def test_it_streams_what_the_contracts_own_call_gives(program, served):
    streamed = (await program("streamed"))["streamed"]
    assert streamed["texts"] == await own_sampled(served)
    assert streamed["finals"] == [[prompt, 0] for prompt in sorted(PROMPTS)]
    (error,) = streamed["errors"]
    assert error.startswith("NOT_FOUND MODEL_NOT_FOUND: model_name: ")


async def test_it_does_the_same_in_asyncio(program, served):
    seen = await program("asyncio")
    assert seen["ready"]
    np.testing.assert_allclose(seen["vectors"], await own_vectors(served), atol=1e-6)
    assert seen["texts"] == await own_sampled(served)
    assert seen["wrong"] == ["StatusCode.INVALID_ARGUMENT", "text[0]: must not be empty"]


async def test_a_stream_that_it_gives_up_frees_its_slot(program, served):
    assert (await program("cancelled"))["cancelled"]
    await idle(served)


async def test_it_is_told_what_is_wrong(program):
    refused = (await program("refused"))["refused"]
    expected = {
        "model": ("NOT_FOUND", "model_name: "),
        "input": ("INVALID_ARGUMENT", "inputs[0]: 'words' is no input of this model: text"),
        "count": ("INVALID_ARGUMENT", "text: has 65; one request takes at most 64"),
        "parameter": ("INVALID_ARGUMENT", "dimensions: must be in [1, "),
        "state": ("UNIMPLEMENTED", "sequence_id: "),
        "statistics": ("UNIMPLEMENTED", "Method not found"),
    }
    for part, (code, words) in expected.items():
        status, message = refused[part]
        assert (status, message[: len(words)]) == (f"StatusCode.{code}", words)


async def test_it_loads_and_unloads_models(program):
    assert (await program("repository"))["repository"] == [True, False]


async def test_our_description_of_the_protocol_is_its_own(interpreter, tmp_path):
    """Every message, field, number, type and method of ours is in its stubs alike."""
    written = tmp_path / "theirs.binpb"
    dump = (
        "import sys\n"
        "from google.protobuf import descriptor_pb2\n"
        "from tritonclient.grpc import service_pb2, model_config_pb2\n"
        "files = descriptor_pb2.FileDescriptorSet()\n"
        "for module in (model_config_pb2, service_pb2): module.DESCRIPTOR.CopyToProto(files.file.add())\n"
        "open(sys.argv[1], 'wb').write(files.SerializeToString())"
    )
    process = await asyncio.create_subprocess_exec(interpreter, "-c", dump, written)
    assert await process.wait() == 0
    theirs = described(FileDescriptorSet.FromString(written.read_bytes()).file)
    own = FileDescriptorSet()
    for module in (model_config_pb2, open_inference_pb2):
        module.DESCRIPTOR.CopyToProto(own.file.add())
    ours = described(own.file)
    assert len(ours) > 150
    assert {name: theirs.get(name) for name in ours} == ours


def described(files):
    """Every field, enum value and method, by its full name."""
    facts = {}

    def message(prefix, found):
        name = f"{prefix}.{found.name}"
        facts[name] = "message"
        for field in found.field:
            oneof = found.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
            facts[f"{name}.{field.name}"] = (field.number, field.type, field.type_name, field.label, oneof)
        for nested in found.nested_type:
            message(name, nested)

    for file in files:
        for found in file.message_type:
            message(file.package, found)
        for enum in file.enum_type:
            facts |= {f"{file.package}.{enum.name}.{value.name}": value.number for value in enum.value}
        for service in file.service:
            for method in service.method:
                streams = (method.client_streaming, method.server_streaming)
                facts[f"{file.package}.{service.name}.{method.name}"] = (method.input_type, method.output_type, streams)
    return facts
