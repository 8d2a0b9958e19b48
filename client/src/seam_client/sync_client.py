"""The client for threads: plain calls, and an answer that is read as it comes."""

from collections.abc import Iterable, Iterator
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
from seam_client.apart import Apart, Streamed
from seam_client.asking import ChatSettings, Messages, ScoreText
from seam_client.connection import Connection, Tls
from seam_client.errors import SeamError
from seam_client.progress import Progress
from seam_client.tracing import CallSpan
from seam_client.wire import answers, errors, requests

Asked = TypeVar("Asked", bound=Proto)
Answered = TypeVar("Answered", bound=Proto)


class ChatStream:
    """An answer on its way. Iterate it for the pieces of text; leave the `with` block, or close, to cancel the rest.

    One thread reads; any thread may close. After an interrupt (KeyboardInterrupt) it can be closed, or read on, without
    an event that was just being handed over.
    """

    def __init__(self, call: Streamed[chat_service_pb2.ChatResponse], target: str, span: CallSpan) -> None:
        self._call = call
        self._target = target
        self._span = span
        self._progress = Progress()

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

    def events(self) -> Iterator[ChatEvent]:
        """Everything told from here on, in order: Started, then Text and Citation, then Finished. Raises SeamError."""
        while (event := self._next()) is not None:
            yield event

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Text:
        while (event := self._next()) is not None:
            if isinstance(event, Text):
                return event
        raise StopIteration

    def text(self) -> str:
        """Reads to the end and returns the whole answer, with the pieces already iterated. Raises SeamError."""
        for _ in self.events():
            pass
        return self._progress.text

    def close(self) -> None:
        """Cancels what is still to come; after the end it does nothing."""
        self._progress.closed = True
        self._call.cancel()
        self._span.ended("OK" if self._progress.finished else "CANCELLED")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> ChatEvent | None:
        """None at the end; a failure is raised again however often it is asked for."""
        try:
            for response in self._call:
                event = answers.chat_event(response)
                if event is not None:
                    self._progress.note(event)
                    return event
            self._span.ended()
        except grpc.RpcError as failed:
            if self._progress.finished is None:
                raise self._failure(failed) from None
        if self._progress.finished is None:
            raise errors.ended_early(self._target)
        return None

    def _failure(self, failed: grpc.RpcError) -> SeamError:
        error = errors.cancelled_here() if self._progress.closed else errors.seam_error(failed, self._target)
        self._span.ended(error.code, error.reason)
        return error


class Seam:
    """Asks a Seam business server. Safe to share between threads; close it, or use it in a `with` block.

    `timeout` is in seconds for a whole call, the last word of a streamed answer included; None is no limit, and each
    call may say its own (math.inf for none). What is UNAVAILABLE before the first word is tried three times in all.
    How `tls` and `plaintext` are decided, `connection.connection` says.
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
        self._channel = _channel(self._connection)
        self._apart = Apart()
        self._chat = chat_service_pb2_grpc.ChatServiceStub(self._channel)
        self._predict = predict_service_pb2_grpc.PredictServiceStub(self._channel)
        self._embedding = embedding_service_pb2_grpc.EmbeddingServiceStub(self._channel)
        self._score = score_service_pb2_grpc.ScoreServiceStub(self._channel)
        self._operations = operations_service_pb2_grpc.OperationsServiceStub(self._channel)

    def __repr__(self) -> str:
        return f"Seam({self._connection!r})"

    def chat(self, messages: Messages, *, timeout: float | None = None, **settings: Unpack[ChatSettings]) -> ChatStream:
        """Begins an answer. Only what cannot be sent is raised here, as InvalidRequest; the rest while reading."""
        request = requests.chat_request(messages, settings)
        requests.check_size(request, self._connection.max_request_bytes)
        seconds = self._connection.seconds(timeout)
        span = CallSpan(request, self._connection.metadata)
        call = self._apart.stream(lambda: self._chat.Chat(request, timeout=seconds, metadata=span.metadata))
        return ChatStream(call, self._connection.shown, span)

    def predict(self, text: str, *, max_output_tokens: int | None = None, timeout: float | None = None) -> Prediction:
        """One text in, one answer out, under the server's own prompt. Raises SeamError."""
        request = requests.predict_request(text, max_output_tokens)
        return answers.prediction(self._ask(self._predict.Predict, request, timeout))

    def embed(
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
        return answers.embeddings(self._ask(self._embedding.Embed, request, timeout))

    def score(
        self,
        inputs: ScoreText | Iterable[ScoreText],
        *,
        model: str = "",
        truncate: bool = False,
        timeout: float | None = None,
    ) -> Scores:
        """The labels of each text, or the relevance of each (query, text) pair, in order. Raises SeamError."""
        request = requests.score_request(inputs, model, truncate)
        return answers.scores(self._ask(self._score.Score, request, timeout))

    def models(self, *, timeout: float | None = None) -> tuple[Model, ...]:
        """Every model served, by name. Raises SeamError."""
        found: list[Model] = []
        page = ""
        while True:
            response = self._ask(self._operations.ListModels, requests.models_request(page), timeout)
            found += answers.models(response)
            page = response.next_page_token
            if not page:
                return tuple(found)

    def status(self, *, timeout: float | None = None) -> Status:
        """The server and its replicas. Raises SeamError."""
        return answers.status(self._ask(self._operations.GetStatus, requests.status_request(), timeout))

    def close(self) -> None:
        """Cancels what is in flight and lets the connection go."""
        self._apart.do(self._channel.close)
        self._apart.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(
        self, method: "grpc.UnaryUnaryMultiCallable[Asked, Answered]", request: Asked, timeout: float | None
    ) -> Answered:
        requests.check_size(request, self._connection.max_request_bytes)
        seconds = self._connection.seconds(timeout)
        with CallSpan(request, self._connection.metadata) as span:
            try:
                if self._apart.needed:
                    return self._apart.answer(lambda: method.future(request, timeout=seconds, metadata=span.metadata))
                return method(request, timeout=seconds, metadata=span.metadata)
            except grpc.RpcError as failed:
                raise errors.seam_error(failed, self._connection.shown) from None


def _channel(reached: Connection) -> grpc.Channel:
    if reached.credentials is None:
        return grpc.insecure_channel(reached.target, options=reached.options)
    return grpc.secure_channel(reached.target, reached.credentials, options=reached.options)
