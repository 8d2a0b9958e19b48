"""The services that tools look for: health, reflection (v1 and v1alpha), channelz, as the gRPC project ships them."""

from collections.abc import Sequence

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from seam.business.v1 import (
    chat_service_pb2,
    embedding_service_pb2,
    operations_service_pb2,
    predict_service_pb2,
    score_service_pb2,
)

from business_svc.domain.inference import Task
from business_svc.usecases.operations import Operations

LIVENESS = "liveness"
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

_CHAT = chat_service_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name
_PREDICT = predict_service_pb2.DESCRIPTOR.services_by_name["PredictService"].full_name
_EMBEDDING = embedding_service_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name
_SCORE = score_service_pb2.DESCRIPTOR.services_by_name["ScoreService"].full_name
_OPERATIONS = operations_service_pb2.DESCRIPTOR.services_by_name["OperationsService"].full_name
SERVICES: Sequence[str] = (_CHAT, _PREDICT, _EMBEDDING, _SCORE, _OPERATIONS)


class Health:
    """A service is SERVING while every model of its task has a replica that can answer now; the whole server (the empty
    name) while every model of every task has. OperationsService needs no replica. `liveness` says that the process
    runs, and stays SERVING while it drains: a probe that restarts processes asks for this one."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._servicer = health.aio.HealthServicer()
        self._draining = False

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    @property
    def draining(self) -> bool:
        return self._draining

    async def drain(self) -> None:
        self._draining = True
        await self.refresh()

    async def refresh(self) -> None:
        for service, serving in self._answers().items():
            state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            await self._servicer.set(service, state)

    def _answers(self) -> dict[str, bool]:
        generates = not self._draining and self._operations.ready(Task.GENERATE)
        return {
            "": not self._draining and self._operations.ready(),
            _CHAT: generates,
            _PREDICT: generates,
            _EMBEDDING: not self._draining and self._operations.ready(Task.EMBED),
            _SCORE: not self._draining and self._operations.ready(Task.SCORE),
            _OPERATIONS: not self._draining,
            LIVENESS: True,
        }


def add_reflection(server: grpc.aio.Server) -> None:
    """The package ships v1alpha only; v1 has the same messages under another service name."""
    names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME, "grpc.channelz.v1.Channelz")
    reflection.enable_server_reflection(names, server)
    servicer = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(REFLECTION_V1, methods),))


def add_channelz(server: grpc.aio.Server) -> None:
    channelz.add_channelz_servicer(server)
