"""Real models in a real process: what runs is exact while another model loads, sleeps, wakes and goes."""

import asyncio
import json

import grpc
import pytest
from seam.inference.v1 import inference_service_pb2 as service_pb
from seam.inference.v1 import model_service_pb2 as pb
from seam.inference.v1 import work_pb2
from seam.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from seam.inference.v1.model_service_pb2_grpc import ModelServiceStub

from .test_process import PATIENCE, process, said


@pytest.fixture
async def served(tmp_path):
    ready = tmp_path / "ready.json"
    only = {"SEAM_EMBED_MODEL": "", "SEAM_SCORE_MODEL": "", "SEAM_CHAT_SLOT_COUNT": "16"}
    async with process("--ready-file", str(ready), **only) as started:
        lines = await said(started, "ready:")
        async with asyncio.timeout(PATIENCE):
            while not ready.exists():  # noqa: ASYNC110 (a file has no event)
                await asyncio.sleep(0.01)
            async with grpc.aio.insecure_channel(json.loads(ready.read_text())["grpc"]) as channel:
                yield InferenceServiceStub(channel), ModelServiceStub(channel), lines


async def ids_of(inference, model, number, count=120):
    sampling = work_pb2.Sampling(temperature=0.8, seed=number)
    stop = work_pb2.StopConditions(max_output_tokens=count, ignore_end_token=True)
    work = work_pb2.GenerateWork(prompt=work_pb2.Prompt(text=f"stream {number}"), sampling=sampling, stop=stop)
    call = inference.Generate(service_pb.GenerateRequest(model=model, work=work))
    return [token async for event in call for token in event.tokens.ids]


async def sixteen(inference, model):
    return await asyncio.gather(*(ids_of(inference, model, number) for number in range(16)))


async def load(models, name, source="embedded:tiny-chat"):
    spec = pb.ModelSpec(name=name, task=pb.TASK_GENERATE, source=source, slot_count=16)
    return [message async for message in models.LoadModel(pb.LoadModelRequest(spec=spec))]


async def test_sixteen_streams_are_exact_while_another_model_loads_fails_sleeps_wakes_and_goes(served, tmp_path):
    inference, models, lines = served
    assert sum("importing torch" in line for line in lines) == 1
    expected = await sixteen(inference, "chat")
    running = asyncio.create_task(sixteen(inference, "chat"))
    messages = await load(models, "second")
    assert messages[-2].progress.byte_count == messages[-2].progress.total_byte_count > 1_000_000
    assert await running == expected
    assert await sixteen(inference, "second") == expected  # the same weights under another name

    running = asyncio.create_task(sixteen(inference, "chat"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text('{"model_type": "llama"}')
    for source in (str(tmp_path / "broken"), str(tmp_path / "nowhere")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await load(models, "third", source)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await models.SleepModel(pb.SleepModelRequest(name="second"))
    assert await sixteen(inference, "second") == expected  # all of them wait while it wakes
    assert await running == expected

    running = asyncio.create_task(sixteen(inference, "chat"))
    await models.UnloadModel(pb.UnloadModelRequest(name="second"))
    assert await running == expected
