"""Puts the business server together over an Inference, and owns how long it lives."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
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
from business_svc.edge_grpc.reading import Reading
from business_svc.edge_http import door as http_door
from business_svc.edge_http.app import Routes, build_app
from business_svc.edge_http.listening import Listener, bound_socket, told_address
from business_svc.edge_tls import RotatingTls
from business_svc.observing import UNOBSERVED, Observer
from business_svc.ports import Inference
from business_svc.settings import Settings, host_and_port
from business_svc.usecases.answering import Answering, AnswerRules
from business_svc.usecases.embedding import Embedding
from business_svc.usecases.operations import Operations
from business_svc.usecases.predicting import Predicting
from business_svc.usecases.scoring import Scoring

HEALTH_SECONDS = 0.2  # how old an answer of the health service may be
LAST_GRACE_SECONDS = 0.5  # for the words in which calls are told that the server stops


@dataclass(frozen=True, slots=True, eq=False)
class UseCases:
    answering: Answering
    predicting: Predicting
    embedding: Embedding
    scoring: Scoring
    operations: Operations


@dataclass(frozen=True, slots=True, eq=False)
class GrpcEdge:
    server: grpc.aio.Server
    door: grpc_door.Door
    health: Health


@dataclass(frozen=True, slots=True, eq=False)
class HttpEdge:
    listener: Listener
    door: http_door.Door


class Running:
    """A server that takes calls. Addresses are "host:port", with the port that was really taken."""

    def __init__(
        self, grpc_edge: GrpcEdge, grpc_address: str, http_edge: HttpEdge, http_address: str, operations: Operations
    ) -> None:
        self._grpc = grpc_edge
        self._http = http_edge
        self._operations = operations
        self.grpc_address = grpc_address
        self.http_address = http_address

    @property
    def ready(self) -> bool:
        """Whether new work is taken and every model can answer now."""
        return not self._grpc.health.draining and self._operations.ready()

    async def drain(self, grace: float) -> None:
        """Health says NOT_SERVING, new calls are refused with DRAINING, what runs has `grace` seconds and ends with
        DRAINING then. gRPC listens to the end: a server of theirs that stops answers new calls with a bare CANCELLED,
        which tells a client neither why nor that it may try again."""
        self._grpc.door.close()
        self._http.door.close()
        await self._grpc.health.drain()
        self._http.listener.drain(grace + LAST_GRACE_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._grpc.door.empty()
                await self._http.listener.closed.wait()
        await self.stop()

    async def stop(self) -> None:
        """At once: what runs ends with DRAINING."""
        self._grpc.door.hang_up()
        self._http.door.hang_up()
        self._http.listener.drain(LAST_GRACE_SECONDS)
        await self._grpc.server.stop(LAST_GRACE_SECONDS)
        await self._http.listener.closed.wait()


@asynccontextmanager
async def serve(
    settings: Settings, inference: Inference, observer: Observer = UNOBSERVED
) -> AsyncGenerator[Running, None]:
    """Serves both edges until left; leaving stops at once what was not drained before. Raises OSError when an address
    cannot be had, TlsFault when a certificate cannot."""
    tls = RotatingTls(settings.edge_files) if settings.edge_files else None
    cases = _use_cases(settings, inference)
    keys = KeyRing(settings.api_keys)
    grpc_edge = _grpc_edge(settings, cases, keys, observer)
    await grpc_edge.health.refresh()
    bound = bound_socket(*host_and_port(settings.http_listen))
    try:
        grpc_address = _add_port(grpc_edge.server, settings.grpc_listen, tls)
    except OSError:
        bound.close()
        raise
    http_edge = _http_edge(settings, cases, keys, grpc_edge.health, tls, observer)
    running = Running(grpc_edge, grpc_address, http_edge, told_address(bound), cases.operations)
    async with asyncio.TaskGroup() as group:
        group.create_task(http_edge.listener.serve(sockets=[bound]))
        watching = group.create_task(_keep_fresh(grpc_edge.health))
        await http_edge.listener.listening.wait()
        await grpc_edge.server.start()
        try:
            yield running
        finally:
            watching.cancel()
            await running.stop()


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


def _http_edge(
    settings: Settings,
    cases: UseCases,
    keys: KeyRing,
    health: Health,
    tls: RotatingTls | None,
    observer: Observer,
) -> HttpEdge:
    routes = Routes(
        cases.answering,
        cases.predicting,
        cases.embedding,
        cases.scoring,
        cases.operations,
        wall_clock=time.time,
        ready=lambda: not health.draining and cases.operations.ready(),
    )
    door = build_app(routes, keys, settings.max_request_bytes, version("seam-business"), observer)
    return HttpEdge(Listener(door, tls.context if tls else None), door)


def _grpc_edge(settings: Settings, cases: UseCases, keys: KeyRing, observer: Observer) -> GrpcEdge:
    """The transport takes messages of twice the limit, so that the door can say what is wrong with one over it; what is
    bigger still is refused by gRPC itself, with the same code."""
    server = grpc.aio.server(
        interceptors=(Reading(),),
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", 2 * settings.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ),
    )
    door = grpc_door.Door(keys, settings.max_request_bytes, observer)
    health = Health(cases.operations)
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
    return GrpcEdge(server, door, health)


def _add_port(server: grpc.aio.Server, address: str, tls: RotatingTls | None) -> str:
    """Raises OSError."""
    try:
        if tls is None or address.startswith("unix:"):
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, tls.credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    if address.startswith("unix:"):
        return address
    return f"{address.rpartition(':')[0]}:{port}"


async def _keep_fresh(health: Health) -> None:
    while True:
        await asyncio.sleep(HEALTH_SECONDS)
        await health.refresh()
