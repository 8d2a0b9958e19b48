"""The services of seam.business.v1, thin over the use cases."""

from contextlib import aclosing

from seam.business.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    operations_service_pb2,
    operations_service_pb2_grpc,
    predict_service_pb2,
    predict_service_pb2_grpc,
    score_service_pb2,
    score_service_pb2_grpc,
)

from business_svc.edge_grpc import business_wire
from business_svc.edge_grpc.door import Door, ServicerContext
from business_svc.usecases import embedding, scoring
from business_svc.usecases.answering import Answering
from business_svc.usecases.embedding import Embedding
from business_svc.usecases.operations import Operations
from business_svc.usecases.predicting import Predicting
from business_svc.usecases.scoring import Scoring


class ChatServicer(chat_service_pb2_grpc.ChatServiceServicer):
    def __init__(self, door: Door, answering: Answering) -> None:
        self._door = door
        self._answering = answering

    async def Chat(  # type: ignore[override]
        self, request: chat_service_pb2.ChatRequest, context: ServicerContext
    ) -> None:
        """Writes instead of yielding: a generator handed to grpc.aio is not closed when its call is cancelled between
        two messages, and the work behind it would run on. `write` waits for the reader's window."""
        async with (
            self._door.call(request, context) as call,
            aclosing(self._answering.chat(business_wire.chat_request(request), call)) as events,
        ):
            async for event in events:
                await context.write(business_wire.chat_response(event))


class PredictServicer(predict_service_pb2_grpc.PredictServiceServicer):
    def __init__(self, door: Door, predicting: Predicting) -> None:
        self._door = door
        self._predicting = predicting

    async def Predict(
        self, request: predict_service_pb2.PredictRequest, context: ServicerContext
    ) -> predict_service_pb2.PredictResponse:
        async with self._door.call(request, context) as call:
            answer = await self._predicting.predict(business_wire.predict_request(request), call)
            return business_wire.predict_response(answer)


class EmbeddingServicer(embedding_service_pb2_grpc.EmbeddingServiceServicer):
    def __init__(self, door: Door, use_case: Embedding) -> None:
        self._door = door
        self._use_case = use_case

    async def Embed(
        self, request: embedding_service_pb2.EmbedRequest, context: ServicerContext
    ) -> embedding_service_pb2.EmbedResponse:
        async with self._door.call(request, context) as call:
            embeddings = await self._use_case.embed(business_wire.embed_request(request), call)
            return business_wire.embed_response(request.model or embedding.DEFAULT_MODEL, embeddings)


class ScoreServicer(score_service_pb2_grpc.ScoreServiceServicer):
    def __init__(self, door: Door, use_case: Scoring) -> None:
        self._door = door
        self._use_case = use_case

    async def Score(
        self, request: score_service_pb2.ScoreRequest, context: ServicerContext
    ) -> score_service_pb2.ScoreResponse:
        async with self._door.call(request, context) as call:
            scores = await self._use_case.score(business_wire.score_request(request), call)
            return business_wire.score_response(request.model or scoring.DEFAULT_MODEL, scores)


class OperationsServicer(operations_service_pb2_grpc.OperationsServiceServicer):
    def __init__(self, door: Door, operations: Operations) -> None:
        self._door = door
        self._operations = operations

    async def ListModels(
        self, request: operations_service_pb2.ListModelsRequest, context: ServicerContext
    ) -> operations_service_pb2.ListModelsResponse:
        async with self._door.call(request, context):
            return business_wire.list_models_response(self._operations.page(request.page_size, request.page_token))

    async def GetStatus(
        self, request: operations_service_pb2.GetStatusRequest, context: ServicerContext
    ) -> operations_service_pb2.GetStatusResponse:
        async with self._door.call(request, context):
            return business_wire.get_status_response(self._operations.status())
