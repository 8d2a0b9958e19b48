"""Models are loaded, unloaded and woken through the Open Inference Protocol."""

import json

import grpc
import pytest
from inference import open_inference_pb2 as oip
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seam.inference.v1 import model_service_pb2 as model_pb
from support.open_inference import infer, tensors

from .conftest import running
from .test_calls import refused


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
