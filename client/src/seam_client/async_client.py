"""The client for asyncio: awaited calls, and an answer that is read as it comes."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message as Proto
from seam.business.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    embedding_service_pb2_grpc,
    operations_service_pb2_grpc,
    predict_service_pb2_grpc,
    score_service_pb2_grpc,
)

from seam_client import connection as reaching
from seam_client.answers import (
    ChatEvent,
    Citation,
    Embeddings,
    Finished,
    Model,
    Prediction,
    Scores,
    Started,
    Status,
    Text,
)
from seam_client.asking import ChatSettings, Messages, ScoreText
from seam_client.connection import Connection, Tls
from seam_client.progress import Progress
from seam_client.tracing import CallSpan
from seam_client.wire import answers, errors, requests

Asked = TypeVar("Asked", bound=Proto)
Answered = TypeVar("Answered", bound=Proto)


class AsyncChatStream:
    """An answer on its way. `async for` gives the pieces of text; leaving the `async with` block, closing, or
    cancelling the task that reads cancels the rest. One task reads; any task may close.
    """

    def __init__(
        self,
        call: "grpc.aio.UnaryStreamCall[chat_service_pb2.ChatRequest, chat_service_pb2.ChatResponse]",
        target: str,
        span: CallSpan,
    ) -> None:
        self._call = call
        self._target = target
        self._span = span
        self._progress = Progress()
        self._loop = asyncio.get_running_loop()

    def __del__(self) -> None:
        # grpc.aio keeps a running call alive by itself; one that nobody can read any more must not go on costing.
        # The collector may run in any thread.
        if not (self._call.done() or self._loop.is_closed()):
            self._loop.call_soon_threadsafe(self._call.cancel)

    @property
    def started(self) -> Started | None:
        """None until the first event is read."""
        return self._progress.started

    @property
    def finished(self) -> Finished | None:
        """None until the last event is read."""
        return self._progress.finished

    @property
    def so_far(self) -> str:
        """The text read so far."""
        return self._progress.text

    @property
    def citations(self) -> tuple[Citation, ...]:
        """Those read so far."""
        return self._progress.citations

    async def events(self) -> AsyncIterator[ChatEvent]:
        """Everything told from here on, in order: Started, then Text and Citation, then Finished. Raises SeamError."""
        while (event := await self._next()) is not None:
            yield event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Text:
        while (event := await self._next()) is not None:
            if isinstance(event, Text):
                return event
        raise StopAsyncIteration

    async def text(self) -> str:
        """Reads to the end and returns the whole answer, with the pieces already iterated. Raises SeamError."""
        while await self._next() is not None:
            pass
        return self._progress.text

    async def close(self) -> None:
        """Cancels what is still to come; after the end it does nothing."""
        self._progress.closed = True
        self._call.cancel()
        self._span.ended("OK" if self._progress.finished else "CANCELLED")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _next(self) -> ChatEvent | None:
        """None at the end; a failure is raised again however often it is asked for."""
        try:
            while isinstance(response := await self._call.read(), chat_service_pb2.ChatResponse):
                event = answers.chat_event(response)
                if event is not None:
                    self._progress.note(event)
                    return event
            self._span.ended()
        except grpc.aio.AioRpcError as failed:
            error = errors.seam_error(failed, self._target)
            self._span.ended(error.code, error.reason)
            if self._progress.finished is None:
                raise error from None
        except asyncio.CancelledError:
            self._span.ended("CANCELLED")
            if _task_is_cancelled():
                raise
            if self._progress.finished is None:
                raise errors.cancelled_here() from None
        if self._progress.finished is None:
            raise errors.ended_early(self._target)
        return None


class AsyncSeam:
    """Asks a Seam business server from one event loop. Close it, or use it in an `async with` block.

    The connection is made by the first call, in that call's event loop; the constructor may run anywhere. `timeout` is
    in seconds for a whole call, the last word of a streamed answer included; None is no limit, and each call may say
    its own (math.inf for none). What is UNAVAILABLE before the first word is tried three times in all. How `tls` and
    `plaintext` are decided, `connection.connection` says.
    """

    def __init__(
        self,
        target: str = reaching.DEFAULT_TARGET,
        *,
        api_key: str | None = None,
        timeout: float | None = reaching.DEFAULT_TIMEOUT,
        tls: Tls | bool = False,
        plaintext: bool = False,
        max_request_bytes: int = reaching.DEFAULT_MAX_REQUEST_BYTES,
        max_response_bytes: int = reaching.DEFAULT_MAX_RESPONSE_BYTES,
    ) -> None:
        self._connection = reaching.connection(
            target,
            api_key=api_key,
            timeout=timeout,
            tls=tls,
            plaintext=plaintext,
            max_request_bytes=max_request_bytes,
            max_response_bytes=max_response_bytes,
        )
        self._stubs: _Stubs | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"AsyncSeam({self._connection!r})"

    def chat(
        self, messages: Messages, *, timeout: float | None = None, **settings: Unpack[ChatSettings]
    ) -> AsyncChatStream:
        """Begins an answer; no await. Only InvalidRequest for what cannot be sent is raised here, the rest comes while
        reading."""
        request = requests.chat_request(messages, settings)
        requests.check_size(request, self._connection.max_request_bytes)
        seconds = self._connection.seconds(timeout)
        span = CallSpan(request, self._connection.metadata)
        call = self._reached().chat.Chat(request, timeout=seconds, metadata=span.metadata)
        return AsyncChatStream(call, self._connection.shown, span)

    async def predict(
        self, text: str, *, max_output_tokens: int | None = None, timeout: float | None = None
    ) -> Prediction:
        """One text in, one answer out, under the server's own prompt. Raises SeamError."""
        request = requests.predict_request(text, max_output_tokens)
        return answers.prediction(await self._ask(self._reached().predict.Predict, request, timeout))

    async def embed(
        self,
        texts: str | Iterable[str],
        *,
        model: str = "",
        truncate: bool = False,
        dimension_count: int | None = None,
        prompt_name: str = "",
        timeout: float | None = None,
    ) -> Embeddings:
        """One vector a text, in order. A text over the model's limit is refused, or cut with `truncate`.

        Raises SeamError."""
        request = requests.embed_request(texts, model, truncate, dimension_count, prompt_name)
        return answers.embeddings(await self._ask(self._reached().embedding.Embed, request, timeout))

    async def score(
        self,
        inputs: ScoreText | Iterable[ScoreText],
        *,
        model: str = "",
        truncate: bool = False,
        timeout: float | None = None,
    ) -> Scores:
        """The labels of each text, or the relevance of each (query, text) pair, in order. Raises SeamError."""
        request = requests.score_request(inputs, model, truncate)
        return answers.scores(await self._ask(self._reached().score.Score, request, timeout))

    async def models(self, *, timeout: float | None = None) -> tuple[Model, ...]:
        """Every model served, by name. Raises SeamError."""
        found: list[Model] = []
        page = ""
        while True:
            response = await self._ask(self._reached().operations.ListModels, requests.models_request(page), timeout)
            found += answers.models(response)
            page = response.next_page_token
            if not page:
                return tuple(found)

    async def status(self, *, timeout: float | None = None) -> Status:
        """The server and its replicas. Raises SeamError."""
        return answers.status(await self._ask(self._reached().operations.GetStatus, requests.status_request(), timeout))

    async def close(self) -> None:
        """Cancels what is in flight and lets the connection go."""
        self._closed = True
        if self._stubs is not None:
            await self._stubs.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _reached(self) -> "_Stubs":
        if self._closed:
            raise ValueError("this AsyncSeam is closed")
        if self._stubs is None:
            self._stubs = _Stubs(_channel(self._connection))
        return self._stubs

    async def _ask(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Asked, Answered]", request: Asked, timeout: float | None
    ) -> Answered:
        requests.check_size(request, self._connection.max_request_bytes)
        seconds = self._connection.seconds(timeout)
        with CallSpan(request, self._connection.metadata) as span:
            try:
                return await method(request, timeout=seconds, metadata=span.metadata)
            except grpc.aio.AioRpcError as failed:
                raise errors.seam_error(failed, self._connection.shown) from None
            except asyncio.CancelledError:
                if _task_is_cancelled():
                    raise
                raise errors.cancelled_here() from None


class _Stubs:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.chat = chat_service_pb2_grpc.ChatServiceStub(channel)
        self.predict = predict_service_pb2_grpc.PredictServiceStub(channel)
        self.embedding = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        self.score = score_service_pb2_grpc.ScoreServiceStub(channel)
        self.operations = operations_service_pb2_grpc.OperationsServiceStub(channel)


def _task_is_cancelled() -> bool:
    """grpc.aio tells a call that this side cancelled by CancelledError too; only the task's own may pass as such."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _channel(reached: Connection) -> grpc.aio.Channel:
    if reached.credentials is None:
        return grpc.aio.insecure_channel(reached.target, options=reached.options)
    return grpc.aio.secure_channel(reached.target, reached.credentials, options=reached.options)
