"""ModelService changes what is served while it is served."""

import asyncio
import threading

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from inference_svc.errors import ModelLoadError
from inference_svc.progress import LoadStage
from inference_svc.requests import Task
from seam.inference.v1 import inference_service_pb2 as service_pb
from seam.inference.v1 import model_service_pb2 as pb
from seam.inference.v1 import session_pb2, work_pb2
from support.echo import EchoEncoder, EchoRunner, echo_model

from .conftest import running

NEWER = session_pb2.Hello(protocol_revision=1, capabilities=["models-changed"])


class Shelf:
    """A loader of echoes that a test may hold, and whose sources say how a load ends."""

    def __init__(self):
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.begun = threading.Event()
        self.loaded = []
        self.threads = set()

    def __call__(self, spec, progress):
        self.begun.set()
        self.threads.add(threading.current_thread().name)
        progress.reached(LoadStage.READING, 0, 300)
        progress.reached(LoadStage.READING, 300, 300)
        assert self.may_go_on.wait(20)
        match spec.source:
            case "nowhere":
                raise ModelLoadError(f"model {spec.name} ({spec.source}) cannot be served: there is no folder nowhere")
            case "crash":
                raise MemoryError
        self.loaded.append(spec.name)
        runner = EchoRunner(max_context_tokens=4096) if spec.task is Task.GENERATE else EchoEncoder()
        return echo_model(spec.name, spec.task, runner=runner)


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
async def served(shelf):
    async with running(load=shelf) as server:
        yield server
        shelf.may_go_on.set()


def load_of(name="more", source="echo", task=pb.TASK_GENERATE, **spec):
    return pb.LoadModelRequest(spec=pb.ModelSpec(name=name, source=source, task=task, **spec))


async def told(call):
    return [message async for message in call]


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await told(call) if hasattr(call, "__aiter__") else await call
    status = rpc_status.from_call(caught.value)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return caught.value.code().name, info.reason, [one.field for one in bad.field_violations], caught.value.details()


async def state(served, name):
    return (await served.models.GetModel(pb.GetModelRequest(name=name))).model.state


async def test_a_load_tells_how_far_it_is_and_then_the_model_which_answers(served):
    messages = await told(served.models.LoadModel(load_of()))
    *progress, last = messages
    stages = [message.progress.stage for message in progress]
    assert stages == sorted(stages)
    assert stages[-1] == pb.LOAD_STAGE_WARMING
    assert progress[-1].progress.byte_count == progress[-1].progress.total_byte_count == 300
    assert (last.model.name, last.model.state) == ("more", pb.MODEL_STATE_READY)
    prompt = work_pb2.Prompt(text="x")
    work = work_pb2.GenerateWork(prompt=prompt, stop=work_pb2.StopConditions(max_output_tokens=4))
    answer = await told(served.inference.Generate(service_pb.GenerateRequest(model="more", work=work)))
    assert answer[-1].WhichOneof("event") == "finished"
    models = (await served.models.ListModels(pb.ListModelsRequest())).models
    assert [model.name for model in models] == ["chat", "embed", "score", "more"]


async def test_others_answer_while_a_model_loads_and_sessions_are_told_of_each_change(served, shelf):
    session = served.session()  # of an older client, which is told nothing
    stream = served.inference.Session(frames_of(NEWER))
    assert "models-changed" in (await anext_frame(stream)).welcome.capabilities
    shelf.may_go_on.clear()
    loading = asyncio.create_task(told(served.models.LoadModel(load_of())))
    sets = await model_sets(stream, lambda states: states.get("more") == pb.MODEL_STATE_LOADING)
    embed = service_pb.EmbedRequest(model="embed", work=work_pb2.EmbedWork(texts=["others go on"]))
    assert len((await served.inference.Embed(embed)).embeddings) == 1
    code, reason, *_ = await refused(served.inference.Embed(service_pb.EmbedRequest(model="more", work=embed.work)))
    assert (code, reason) == ("UNAVAILABLE", "MODEL_NOT_READY")
    shelf.may_go_on.set()
    await loading
    sets += await model_sets(stream, lambda states: states.get("more") == pb.MODEL_STATE_READY)
    await served.models.UnloadModel(pb.UnloadModelRequest(name="more"))
    sets += await model_sets(stream, lambda states: "more" not in states)
    assert all({"chat", "embed", "score"} <= set(states) for states in sets)
    assert not any(frame.HasField("models") for frame in session.frames)
    assert {"model"} & shelf.threads == set()


async def frames_of(hello):
    yield session_pb2.SessionRequest(hello=hello)
    await asyncio.Event().wait()


async def anext_frame(stream):
    async with asyncio.timeout(20):
        return await stream.read()


async def model_sets(stream, done):
    """By name, the states that each set told, up to the one that is wanted."""
    sets = []
    while not sets or not done(sets[-1]):
        frame = await anext_frame(stream)
        if frame.HasField("models"):
            sets.append({model.name: model.state for model in frame.models.models})
    return sets


async def test_a_load_that_fails_tells_why_and_leaves_its_name_to_the_next(served):
    for source, why in (("nowhere", "there is no folder nowhere"), ("crash", "MemoryError")):
        code, reason, _, words = await refused(served.models.LoadModel(load_of(source=source)))
        assert (code, reason) == ("FAILED_PRECONDITION", "MODEL_LOAD_FAILED")
        assert why in words
        model = (await served.models.GetModel(pb.GetModelRequest(name="more"))).model
        assert model.state == pb.MODEL_STATE_FAILED
        assert why in model.notice
    await told(served.models.LoadModel(load_of()))
    assert await state(served, "more") == pb.MODEL_STATE_READY
    await refused(served.models.LoadModel(load_of(name="third", source="crash")))
    await served.models.UnloadModel(pb.UnloadModelRequest(name="third"))
    assert (await refused(served.models.GetModel(pb.GetModelRequest(name="third"))))[1] == "MODEL_NOT_FOUND"


async def test_a_load_goes_on_when_its_caller_leaves(served, shelf):
    shelf.may_go_on.clear()
    call = served.models.LoadModel(load_of())
    await call.read()
    await asyncio.to_thread(shelf.begun.wait, 20)
    call.cancel()
    shelf.may_go_on.set()
    session = served.inference.Session(frames_of(NEWER))
    welcome = (await anext_frame(session)).welcome
    if not any(model.name == "more" and model.state == pb.MODEL_STATE_READY for model in welcome.models):
        await model_sets(session, lambda states: states.get("more") == pb.MODEL_STATE_READY)
    assert await state(served, "more") == pb.MODEL_STATE_READY


async def test_loads_wait_for_each_other_and_too_many_are_refused(served, shelf):
    shelf.may_go_on.clear()
    calls = [served.models.LoadModel(load_of(name=f"m{number}")) for number in range(8)]
    for call in calls:
        assert (await call.read()).progress.stage == pb.LOAD_STAGE_QUEUED
    code, reason, *_ = await refused(served.models.LoadModel(load_of(name="ninth")))
    assert (code, reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    for change in (
        served.models.UnloadModel(pb.UnloadModelRequest(name="m0")),
        served.models.SleepModel(pb.SleepModelRequest(name="m0")),
        served.models.WakeModel(pb.WakeModelRequest(name="m0")),
    ):
        assert (await refused(change))[:2] == ("UNAVAILABLE", "MODEL_NOT_READY")
    shelf.may_go_on.set()
    for call in calls:
        last = None
        while (message := await call.read()) is not grpc.aio.EOF:
            last = message
        assert last.model.state == pb.MODEL_STATE_READY
    assert set(shelf.loaded[3:]) == {f"m{number}" for number in range(8)}


@pytest.mark.parametrize(
    ("request_", "code", "reason", "field"),
    [
        (load_of(name="chat"), "ALREADY_EXISTS", "MODEL_EXISTS", "spec.name"),
        (load_of(name="a b"), "INVALID_ARGUMENT", "INVALID_FIELD", "spec.name"),
        (load_of(name=""), "INVALID_ARGUMENT", "INVALID_FIELD", "spec.name"),
        (load_of(name="x" * 65), "INVALID_ARGUMENT", "INVALID_FIELD", "spec.name"),
        (load_of(source=" "), "INVALID_ARGUMENT", "TEXT_EMPTY", "spec.source"),
        (load_of(source="a\nb"), "INVALID_ARGUMENT", "INVALID_FIELD", "spec.source"),
        (load_of(task=pb.TASK_UNSPECIFIED), "INVALID_ARGUMENT", "INVALID_FIELD", "spec.task"),
        (load_of(device="tpu"), "INVALID_ARGUMENT", "INVALID_FIELD", "spec.device"),
        (load_of(dtype="int1"), "INVALID_ARGUMENT", "INVALID_FIELD", "spec.dtype"),
        (load_of(max_context_tokens=1), "INVALID_ARGUMENT", "INVALID_FIELD", "spec.max_context_tokens"),
        (load_of(task=pb.TASK_EMBED, slot_count=2), "INVALID_ARGUMENT", "INVALID_FIELD", "spec.slot_count"),
        (load_of(idle_sleep=Duration()), "INVALID_ARGUMENT", "INVALID_FIELD", "spec.idle_sleep"),
        (load_of(idle_sleep=Duration(seconds=1, nanos=-1)), "INVALID_ARGUMENT", "INVALID_FIELD", "spec.idle_sleep"),
    ],
)
async def test_a_spec_that_makes_no_sense_is_refused_by_its_field(served, request_, code, reason, field):
    assert (await refused(served.models.LoadModel(request_)))[:3] == (code, reason, [field])


async def test_a_grace_over_an_hour_and_a_name_that_is_not_there_are_refused(served):
    long = pb.UnloadModelRequest(name="chat", grace=Duration(seconds=3601))
    assert (await refused(served.models.UnloadModel(long)))[:3] == ("INVALID_ARGUMENT", "INVALID_FIELD", ["grace"])
    for change in (
        served.models.UnloadModel(pb.UnloadModelRequest(name="none")),
        served.models.SleepModel(pb.SleepModelRequest(name="none")),
        served.models.WakeModel(pb.WakeModelRequest(name="none")),
    ):
        assert (await refused(change))[:3] == ("NOT_FOUND", "MODEL_NOT_FOUND", ["name"])


async def test_nobody_changes_models_where_the_settings_do_not_allow_it(shelf):
    async with running(load=shelf, allow_model_control=False) as served:
        for change in (
            served.models.LoadModel(load_of()),
            served.models.UnloadModel(pb.UnloadModelRequest(name="chat")),
            served.models.SleepModel(pb.SleepModelRequest(name="chat")),
            served.models.WakeModel(pb.WakeModelRequest(name="chat")),
        ):
            assert (await refused(change))[:2] == ("PERMISSION_DENIED", "MODEL_CONTROL_OFF")


async def test_a_server_of_no_model_serves_the_one_that_is_loaded_later(shelf):
    async with running(load=shelf, chat_model="", embed_model="", score_model="") as served:
        assert not (await served.models.ListModels(pb.ListModelsRequest())).models
        await told(served.models.LoadModel(load_of(name="first", task=pb.TASK_EMBED)))
        embed = service_pb.EmbedRequest(model="first", work=work_pb2.EmbedWork(texts=["x"]))
        assert len((await served.inference.Embed(embed)).embeddings) == 1


async def test_a_model_that_nobody_asks_falls_asleep_and_a_request_wakes_it(shelf):
    async with running(load=shelf, embed_idle_sleep_seconds=0.05) as served:
        stream = served.inference.Session(frames_of(NEWER))
        await anext_frame(stream)
        embed = service_pb.EmbedRequest(model="embed", work=work_pb2.EmbedWork(texts=["x"]))
        for _ in range(3):
            if await state(served, "embed") != pb.MODEL_STATE_SLEEPING:
                await model_sets(stream, lambda states: states["embed"] == pb.MODEL_STATE_SLEEPING)
            assert len((await served.inference.Embed(embed)).embeddings) == 1
        assert shelf.loaded.count("embed") >= 4


async def test_a_model_with_live_requests_does_not_fall_asleep(served):
    session = served.session()
    prompt = work_pb2.Prompt(text="x")
    work = work_pb2.GenerateWork(prompt=prompt, stop=work_pb2.StopConditions(max_output_tokens=400))
    session.send(submits=[session_pb2.Submit(request_id=1, model="chat", generate=work, initial_credits=1)])
    await session.until(lambda: any(event.HasField("tokens") for event in session.news[1]))
    assert (await refused(served.models.SleepModel(pb.SleepModelRequest(name="chat"))))[:2] == (
        "FAILED_PRECONDITION",
        "MODEL_BUSY",
    )
    session.send(cancels=[session_pb2.Cancel(request_id=1)])
    await session.until(lambda: session.news[1][-1].HasField("failed"))
    assert (await served.models.SleepModel(pb.SleepModelRequest(name="chat"))).model.state == pb.MODEL_STATE_SLEEPING
    assert (await served.models.WakeModel(pb.WakeModelRequest(name="chat"))).model.state == pb.MODEL_STATE_READY


async def test_requests_that_wait_for_a_model_which_cannot_wake_are_handed_back(shelf):
    class Vanishing(Shelf):
        def __call__(self, spec, progress):
            if spec.name in self.loaded and spec.name == "chat":
                raise ModelLoadError("its folder is gone")
            return super().__call__(spec, progress)

    async with running(load=Vanishing()) as served:
        await served.models.SleepModel(pb.SleepModelRequest(name="chat"))
        work = work_pb2.GenerateWork(prompt=work_pb2.Prompt(text="x"))
        call = served.inference.Generate(service_pb.GenerateRequest(model="chat", work=work))
        assert (await refused(call))[:2] == ("UNAVAILABLE", "DRAINING")
        assert await state(served, "chat") == pb.MODEL_STATE_FAILED
        embed = service_pb.EmbedRequest(model="embed", work=work_pb2.EmbedWork(texts=["x"]))
        assert len((await served.inference.Embed(embed)).embeddings) == 1
