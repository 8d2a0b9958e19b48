"""Sessions on an engine of echo models in this process, and that nothing of them is left."""

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace

from inference_svc.admission import Admission, AdmissionLimits
from inference_svc.catalogue import Catalogue
from inference_svc.engine.engine import Engine
from inference_svc.model import ModelSpec
from inference_svc.requests import Task
from inference_svc.wire.replica import Replica, SessionLimits
from inference_svc.wire.session_service import SessionService

from support.echo import EchoRunner, Gate, echo_model
from support.session_client import SessionClient

TASKS = {"chat": Task.GENERATE, "embed": Task.EMBED, "score": Task.SCORE}


class Served:
    def __init__(self, service, runner, gate, engine, tokenizer):
        self.service, self.runner, self.gate, self.engine, self.tokenizer = service, runner, gate, engine, tokenizer
        self.clients = []

    def client(self, *, hello=True, **options):
        client = SessionClient(self.service.session, **options)
        self.clients.append(client)
        if hello:
            client.hello()
        return client


@asynccontextmanager
async def serving(*, tokenizer=None, slots=8, **options):
    runner = EchoRunner(gate=Gate(), slot_count=slots)
    models = [echo_model("chat", runner=runner), echo_model("embed", Task.EMBED), echo_model("score", Task.SCORE)]
    if tokenizer is not None:
        models = [replace(model, tokenizer=tokenizer) for model in models]
    async with serving_models(models, **options) as served:
        yield served


@asynccontextmanager
async def serving_models(models, *, limits=None, admission_limits=None, ready=True):
    """The first one is the chat model, whose gate and runner tests hold."""
    runner, tokenizer = models[0].runner, models[0].tokenizer
    gate = runner.gate
    catalogue = Catalogue([ModelSpec(name, task, "echo") for name, task in TASKS.items()])
    engine = Engine(models)
    engine.start()
    if ready:
        for model in models:
            catalogue.ready(model)
    with Admission(catalogue, admission_limits or AdmissionLimits(), time.monotonic) as admission:
        limits = limits or SessionLimits(heartbeat=5.0)
        service = SessionService(Replica(engine, admission, catalogue, limits, "replica-1", time.monotonic))
        served = Served(service, runner, gate, engine, tokenizer)
        try:
            yield served
        finally:
            gate.open()
            for client in served.clients:
                await client.lose()
            await asyncio.to_thread(engine.stop)
    assert runner.misuse == []
    assert engine.dead is not None or not runner.open_slots
    assert service.session_count == 0
