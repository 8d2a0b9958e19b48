"""One request on its way over gRPC, as light as it can be: generated stubs, no retries, only what the report needs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from seam.business.v1 import (
    chat_service_pb2_grpc,
    embedding_service_pb2_grpc,
    predict_service_pb2_grpc,
    score_service_pb2_grpc,
)

from seam_client.connection import Connection
from seam_client.load.outcome import Outcome
from seam_client.load.schedule import Kind, Shot
from seam_client.wire import errors, requests

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Asked:
    """What all requests of a run have in common. `models` by kind, where not the server's default."""

    models: dict[Kind, str]
    ignore_end_token: bool = True


class Sender(Protocol):
    """`send` fills the outcome and raises nothing but a cancel. `timeout` in seconds, None for none."""

    async def send(self, shot: Shot, text: str, outcome: Outcome, timeout: float | None, clock: Clock) -> None: ...

    async def close(self) -> None: ...


class GrpcSender:
    def __init__(self, connection: Connection, asked: Asked) -> None:
        options = tuple(
            (name, value) for name, value in connection.options if name != "grpc.service_config"
        )  # a retry would hide what the server said
        options += (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))
        if connection.credentials is None:
            self._channel = grpc.aio.insecure_channel(connection.target, options=options)
        else:
            self._channel = grpc.aio.secure_channel(connection.target, connection.credentials, options=options)
        self._metadata = connection.metadata
        self._target = connection.shown
        self._asked = asked
        self._chat = chat_service_pb2_grpc.ChatServiceStub(self._channel)
        self._predict = predict_service_pb2_grpc.PredictServiceStub(self._channel)
        self._embedding = embedding_service_pb2_grpc.EmbeddingServiceStub(self._channel)
        self._score = score_service_pb2_grpc.ScoreServiceStub(self._channel)

    async def send(self, shot: Shot, text: str, outcome: Outcome, timeout: float | None, clock: Clock) -> None:
        try:
            if shot.kind is Kind.CHAT:
                await self._stream(shot, text, outcome, timeout, clock)
            else:
                answer = await self._call(shot, text, timeout)
                outcome.input_tokens = answer.usage.input_token_count
                outcome.output_tokens = answer.usage.output_token_count
        except grpc.aio.AioRpcError as failed:
            error = errors.seam_error(failed, self._target)
            outcome.code, outcome.reason = error.code, error.reason
            outcome.retry_info = error.retry_after is not None
        outcome.end = clock()

    async def _stream(self, shot: Shot, text: str, outcome: Outcome, timeout: float | None, clock: Clock) -> None:
        request = requests.chat_request(
            text,
            {
                "model": self._asked.models.get(Kind.CHAT, ""),
                "max_output_tokens": shot.output_tokens,
                "ignore_end_token": self._asked.ignore_end_token,
            },
        )
        finished = False
        async for response in self._chat.Chat(request, timeout=timeout, metadata=self._metadata):
            which = response.WhichOneof("event")
            if which == "text":
                outcome.texts.append(clock())
                outcome.first = outcome.first or outcome.texts[0]
            elif which == "finished":
                finished = True
                outcome.input_tokens = response.finished.usage.input_token_count
                outcome.output_tokens = response.finished.usage.output_token_count
        if not finished:
            outcome.code = "INTERNAL"

    def _call(self, shot: Shot, text: str, timeout: float | None) -> Awaitable[Any]:
        model = self._asked.models.get(shot.kind, "")
        match shot.kind:
            case Kind.EMBED:
                embed = requests.embed_request(text, model, True, None, "")
                return self._embedding.Embed(embed, timeout=timeout, metadata=self._metadata)
            case Kind.SCORE:
                score = requests.score_request([text], model, True)
                return self._score.Score(score, timeout=timeout, metadata=self._metadata)
            case _:
                predict = requests.predict_request(text, shot.output_tokens)
                return self._predict.Predict(predict, timeout=timeout, metadata=self._metadata)

    async def close(self) -> None:
        await self._channel.close()
