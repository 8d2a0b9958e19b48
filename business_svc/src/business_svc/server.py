"""Puts the business server together over an Inference, and owns how long it lives."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

import grpc
from seam.business.v1 import (
    chat_service_pb2_grpc,
    embedding_service_pb2_grpc,
    operations_service_pb2_grpc,
    predict_service_pb2_grpc,
    score_service_pb2_grpc,
)

from business_svc.domain.access import KeyRing
from business_svc.domain.prompting import PromptRules
from business_svc.edge_grpc import door as grpc_door
from business_svc.edge_grpc import servicers
from business_svc.edge_grpc.observing import Health, add_channelz, add_reflection
from business_svc.edge_http.app import Routes, build_app
from business_svc.edge_http.listening import Listener, bound_socket, told_address
from business_svc.ports import Inference
from business_svc.settings import Settings, host_and_port
from business_svc.usecases.answering import Answering, AnswerRules
from business_svc.usecases.embedding import Embedding
from business_svc.usecases.operations import Operations
from business_svc.usecases.predicting import Predicting
from business_svc.usecases.scoring import Scoring

HEALTH_SECONDS = 0.2  # how old an answer of the health service may be
LAST_GRACE_SECONDS = 0.5  # for calls still running when a server that was not drained goes away


@dataclass(frozen=True, slots=True, eq=False)
class UseCases:
    answering: Answering
    predicting: Predicting
    embedding: Embedding
    scoring: Scoring
    operations: Operations


class Running:
    """A server that takes calls. Addresses are "host:port" as they can be dialled from this machine."""

    def __init__(
        self,
        grpc_server: grpc.aio.Server,
        grpc_address: str,
        http_listener: Listener,
        http_address: str,
        health: Health,
        operations: Operations,
    ) -> None:
        self._grpc_server = grpc_server
        self._http_listener = http_listener
        self._health = health
        self._operations = operations
        self.grpc_address = grpc_address
        self.http_address = http_address

    @property
    def ready(self) -> bool:
        """Whether new work is taken and every model can answer now."""
        return not self._health.draining and self._operations.ready()

    async def drain(self, grace: float) -> None:
        """Health says NOT_SERVING, nothing new is taken, what runs has `grace` seconds and is cancelled then."""
        await self._health.drain()
        self._http_listener.drain(grace)
        await self._grpc_server.stop(grace)


@asynccontextmanager
async def serve(settings: Settings, inference: Inference) -> AsyncGenerator[Running, None]:
    """Serves both edges until left. Leaving without a drain before it cancels what runs. Raises OSError when an address
    cannot be had."""
    cases = _use_cases(settings, inference)
    keys = KeyRing(settings.api_keys)
    health = Health(cases.operations)
    await health.refresh()
    grpc_server = _grpc_server(settings, cases, keys, health)
    grpc_address = _add_port(grpc_server, settings.grpc_listen)
    bound = bound_socket(*host_and_port(settings.http_listen))
    routes = Routes(
        cases.answering,
        cases.predicting,
        cases.embedding,
        cases.scoring,
        cases.operations,
        wall_clock=time.time,
        ready=lambda: not health.draining and cases.operations.ready(),
    )
    listener = Listener(build_app(routes, keys, settings.max_request_bytes, version("seam-business")))
    running = Running(grpc_server, grpc_address, listener, told_address(bound), health, cases.operations)
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.serve(sockets=[bound]))
        watching = group.create_task(_keep_fresh(health))
        await listener.listening.wait()
        await grpc_server.start()
        try:
            yield running
        finally:
            watching.cancel()
            listener.drain(LAST_GRACE_SECONDS)
            await grpc_server.stop(LAST_GRACE_SECONDS)


def _use_cases(settings: Settings, inference: Inference) -> UseCases:
    clock = asyncio.get_running_loop().time
    prompts = PromptRules(settings.predict_template, settings.system_prompt)
    rules = AnswerRules(prompts, settings.default_max_output_tokens, settings.max_request_seconds)
    answering = Answering(inference, rules, clock, new_request_id=lambda: uuid.uuid4().hex)
    return UseCases(
        answering,
        Predicting(inference, answering, prompts),
        Embedding(inference, settings.max_request_seconds, clock),
        Scoring(inference, settings.max_request_seconds, clock),
        Operations(inference, version("seam-business"), clock),
    )


def _grpc_server(settings: Settings, cases: UseCases, keys: KeyRing, health: Health) -> grpc.aio.Server:
    """The transport takes messages of twice the limit, so that the door can say what is wrong with one over it; what is
    bigger still is refused by gRPC itself, with the same code."""
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", 2 * settings.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        )
    )
    door = grpc_door.Door(keys, settings.max_request_bytes)
    chat_service_pb2_grpc.add_ChatServiceServicer_to_server(servicers.ChatServicer(door, cases.answering), server)
    predict_service_pb2_grpc.add_PredictServiceServicer_to_server(
        servicers.PredictServicer(door, cases.predicting), server
    )
    embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(
        servicers.EmbeddingServicer(door, cases.embedding), server
    )
    score_service_pb2_grpc.add_ScoreServiceServicer_to_server(servicers.ScoreServicer(door, cases.scoring), server)
    operations_service_pb2_grpc.add_OperationsServiceServicer_to_server(
        servicers.OperationsServicer(door, cases.operations), server
    )
    health.add_to(server)
    add_reflection(server)
    add_channelz(server)
    return server


def _add_port(server: grpc.aio.Server, address: str) -> str:
    """Raises OSError."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    if address.startswith("unix:"):
        return address
    return f"{address.rpartition(':')[0]}:{port}"


async def _keep_fresh(health: Health) -> None:
    while True:
        await asyncio.sleep(HEALTH_SECONDS)
        await health.refresh()
