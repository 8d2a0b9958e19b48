"""A real inference server on a free port, over models that need no weights."""

from contextlib import asynccontextmanager

import grpc
import pytest
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from inference_svc.requests import Task
from inference_svc.server import serve
from inference_svc.settings import Settings
from seam.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from seam.inference.v1.model_service_pb2_grpc import ModelServiceStub
from support.echo import EchoEncoder, EchoRunner, Gate, echo_model
from support.session_client import SessionClient


class Running:
    """A server, a channel to it, and the runners behind it."""

    def __init__(self, server, channel, gate, runner):
        self.server, self.channel, self.gate, self.runner = server, channel, gate, runner
        self.inference = InferenceServiceStub(channel)
        self.models = ModelServiceStub(channel)

    def session(self):
        client = SessionClient(lambda frames: self.inference.Session(frames))
        client.hello()
        return client


@asynccontextmanager
async def running(*, load=None, slots=8, ready=True, options=(), listen="127.0.0.1:0", **settings):
    gate = Gate()
    runner = EchoRunner(gate=gate, slot_count=slots, max_context_tokens=4096)

    def echo(spec, progress):
        match spec.task:
            case Task.GENERATE:
                return echo_model(spec.name, runner=runner, max_texts=1)
            case Task.EMBED:
                return echo_model(spec.name, spec.task, runner=EchoEncoder(width=8))
            case Task.SCORE:
                return echo_model(spec.name, spec.task)

    async with serve(Settings(listen=listen, **settings), load=load or echo) as server:
        if ready:
            await server.ready()
        async with grpc.aio.insecure_channel(server.address, options=options) as channel:
            yield Running(server, channel, gate, runner)
        gate.open()
    assert runner.misuse == []
    assert server.engine.dead or not runner.open_slots


@pytest.fixture
async def served():
    async with running() as server:
        yield server


@pytest.fixture
def stub(served):
    return GRPCInferenceServiceStub(served.channel)
