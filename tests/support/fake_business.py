"""A small real business server for client tests: it keeps the contract of seam.business.v1, and fails on demand.

It runs grpc.aio on a loop of its own in a thread, so that blocking and awaiting clients can both be tested against it.
What it does is chosen by the text it is asked: "fail REASON", "hold", "die", "cut", "drip N", "flaky N".
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from seam.business.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    conversation_pb2,
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    operations_service_pb2,
    operations_service_pb2_grpc,
    predict_service_pb2,
    predict_service_pb2_grpc,
    score_service_pb2,
    score_service_pb2_grpc,
)

KEY = "key-of-the-fake"
NOTICE = "untrained weights: the text is nonsense"

MAX_TEXTS = 64

CODES = {
    "INVALID_FIELD": grpc.StatusCode.INVALID_ARGUMENT,
    "TEXT_EMPTY": grpc.StatusCode.INVALID_ARGUMENT,
    "INPUT_TOO_LONG": grpc.StatusCode.INVALID_ARGUMENT,
    "TOO_MANY_TEXTS": grpc.StatusCode.INVALID_ARGUMENT,
    "TASK_NOT_SUPPORTED": grpc.StatusCode.INVALID_ARGUMENT,
    "MALFORMED_FRAME": grpc.StatusCode.INVALID_ARGUMENT,
    "DUPLICATE_REQUEST": grpc.StatusCode.ALREADY_EXISTS,
    "UNKNOWN_REQUEST": grpc.StatusCode.NOT_FOUND,
    "MODEL_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "FEATURE_NOT_AVAILABLE": grpc.StatusCode.UNIMPLEMENTED,
    "PROTOCOL_REVISION": grpc.StatusCode.FAILED_PRECONDITION,
    "MODEL_NOT_READY": grpc.StatusCode.UNAVAILABLE,
    "DRAINING": grpc.StatusCode.UNAVAILABLE,
    "NO_REPLICA": grpc.StatusCode.UNAVAILABLE,
    "REPLICA_LOST": grpc.StatusCode.UNAVAILABLE,
    "QUEUE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "CACHE_TOO_SMALL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "MESSAGE_TOO_LARGE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DEADLINE_INFEASIBLE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DEADLINE_EXPIRED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "CANCELLED": grpc.StatusCode.CANCELLED,
    "NUMERICAL_FAULT": grpc.StatusCode.INTERNAL,
    "STEP_FAILED": grpc.StatusCode.INTERNAL,
    "POISON_REQUEST": grpc.StatusCode.ABORTED,
    "ENGINE_STOPPED": grpc.StatusCode.UNAVAILABLE,
    "API_KEY_MISSING": grpc.StatusCode.UNAUTHENTICATED,
    "API_KEY_INVALID": grpc.StatusCode.UNAUTHENTICATED,
    "MODEL_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "MODEL_BUSY": grpc.StatusCode.FAILED_PRECONDITION,
    "MODEL_LOAD_FAILED": grpc.StatusCode.FAILED_PRECONDITION,
    "MODEL_CONTROL_OFF": grpc.StatusCode.PERMISSION_DENIED,
    "INTERNAL_FAULT": grpc.StatusCode.INTERNAL,
    "PEER_NOT_ALLOWED": grpc.StatusCode.PERMISSION_DENIED,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One call that arrived: its method's name, its request and its metadata."""

    method: str
    request: Any
    metadata: dict[str, str]
    seconds_left: float | None


@dataclass(eq=False)
class FakeBusiness:
    """`target` is its address; `calls` are all that arrived; `cancelled` is set when a held call was given up."""

    target: str = ""
    calls: list[Asked] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    holding: threading.Event = field(default_factory=threading.Event)
    left_alone: asyncio.Event = field(default_factory=asyncio.Event)

    async def enter(self, request: Any, context: Any) -> None:
        """Notes the call, and refuses it without the right key."""
        metadata = dict(context.invocation_metadata())
        method = type(request).__name__.removesuffix("Request")
        self.calls.append(Asked(method, request, metadata, context.time_remaining()))
        given = metadata.get("authorization")
        if given is None:
            await fail(context, "API_KEY_MISSING", "no API key was sent")
        if given != f"Bearer {KEY}":
            await fail(context, "API_KEY_INVALID", "the API key is not known")

    async def obey(self, order: str, context: Any) -> None:
        """Does what a text asks for beside an answer."""
        word, _, rest = order.partition(" ")
        match word:
            case "fail":
                await fail(context, rest, f"made to fail with {rest}")
            case "flaky" if len([call for call in self.calls if call.method != "ListModels"]) <= int(rest):
                await fail(context, "DRAINING", "not now", pushback_ms=1)
            case "hold":
                await self.hold()
            case "bare":
                await context.abort(grpc.StatusCode[rest], "no details")

    async def hold(self) -> None:
        """Never answers; tells when it was given up."""
        self.holding.set()
        try:
            await self.left_alone.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def fail(context: Any, reason: str, message: str, pushback_ms: int | None = None) -> None:
    """Ends the call as a Seam server does: canonical code, ErrorInfo, and the details of the reason."""
    code = CODES[reason]
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="seam")]
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED):
        violation = error_details_pb2.BadRequest.FieldViolation(field="the.field[0]", description="what is wrong")
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if code is grpc.StatusCode.UNAVAILABLE or reason in ("QUEUE_FULL", "DEADLINE_INFEASIBLE"):
        details.append(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=250_000_000)))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=message, details=packed)
    trailers: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if code is grpc.StatusCode.UNAVAILABLE:
        # A negative pushback forbids the retry: only "flaky" lets the client try again.
        trailers.append(("grpc-retry-pushback-ms", str(-1 if pushback_ms is None else pushback_ms)))
    await context.abort(code, message, tuple(trailers))


def usage(input_count: int, output_count: int) -> conversation_pb2.Usage:
    return conversation_pb2.Usage(input_token_count=input_count, output_token_count=output_count, cached_token_count=1)


def timings() -> conversation_pb2.Timings:
    return conversation_pb2.Timings(
        queue=duration_pb2.Duration(nanos=1_000_000),
        prefill=duration_pb2.Duration(nanos=20_000_000),
        decode=duration_pb2.Duration(nanos=500_000_000),
        total=duration_pb2.Duration(nanos=530_000_000),
    )


class Chat(chat_service_pb2_grpc.ChatServiceServicer):
    def __init__(self, business: FakeBusiness) -> None:
        self._business = business

    async def Chat(self, request: chat_service_pb2.ChatRequest, context: Any) -> None:
        """Writes: a generator handed to grpc.aio is not told of a cancel that comes between two messages."""
        try:
            await self._answer(request, context)
        except asyncio.CancelledError:
            self._business.cancelled.set()
            raise

    async def _answer(self, request: chat_service_pb2.ChatRequest, context: Any) -> None:
        await self._business.enter(request, context)
        order = request.messages[-1].content if request.messages else "fail TEXT_EMPTY"
        if order not in ("hold", "die", "cut"):
            await self._business.obey(order, context)
        started = chat_service_pb2.Started(request_id="r-1", model="chat", input_token_count=7, seed=42, notice=NOTICE)
        await context.write(chat_service_pb2.ChatResponse(started=started))
        pieces = [f"{n} " for n in range(int(order.split()[1]))] if order.startswith("drip ") else ["You said: ", order]
        for piece in pieces:
            text = chat_service_pb2.Text(text=piece, token_ids=[1, 2])
            await context.write(chat_service_pb2.ChatResponse(text=text))
        match order:
            case "hold":
                await self._business.hold()
            case "die":
                await fail(context, "REPLICA_LOST", "the replica went away")
            case "cut":
                return
        citation = chat_service_pb2.Citation(start=0, end=3, source_id="doc-1", quote="a passage")
        await context.write(chat_service_pb2.ChatResponse(citation=citation))
        finished = chat_service_pb2.Finished(
            reason=conversation_pb2.FINISH_REASON_STOP, usage=usage(7, 2 * len(pieces)), timings=timings()
        )
        await context.write(chat_service_pb2.ChatResponse(finished=finished))


class Predict(predict_service_pb2_grpc.PredictServiceServicer):
    def __init__(self, business: FakeBusiness) -> None:
        self._business = business

    async def Predict(self, request: predict_service_pb2.PredictRequest, context: Any) -> Any:
        await self._business.enter(request, context)
        await self._business.obey(request.text, context)
        return predict_service_pb2.PredictResponse(
            text=f"You said: {request.text}",
            model="chat",
            reason=conversation_pb2.FINISH_REASON_LENGTH,
            usage=usage(3, 4),
            timings=timings(),
            notice=NOTICE,
        )


class Embedding(embedding_service_pb2_grpc.EmbeddingServiceServicer):
    def __init__(self, business: FakeBusiness) -> None:
        self._business = business

    async def Embed(self, request: embedding_service_pb2.EmbedRequest, context: Any) -> Any:
        await self._business.enter(request, context)
        if len(request.texts) > MAX_TEXTS:
            await fail(context, "TOO_MANY_TEXTS", f"texts: at most {MAX_TEXTS}, were {len(request.texts)}")
        for text in request.texts:
            await self._business.obey(text, context)
        return embedding_service_pb2.EmbedResponse(
            embeddings=[
                embedding_service_pb2.Embedding(
                    values=[0.5, -0.25, float(len(text))],
                    input_token_count=len(text.split()),
                    truncated=len(text) > 100,
                )
                for text in request.texts
            ],
            model="embed",
            usage=usage(3, 0),
            timings=timings(),
        )


class Score(score_service_pb2_grpc.ScoreServiceServicer):
    def __init__(self, business: FakeBusiness) -> None:
        self._business = business

    async def Score(self, request: score_service_pb2.ScoreRequest, context: Any) -> Any:
        await self._business.enter(request, context)
        labels = [
            score_service_pb2.LabelScore(label="good", score=0.75),
            score_service_pb2.LabelScore(label="bad", score=0.25),
        ]
        return score_service_pb2.ScoreResponse(
            scores=[
                score_service_pb2.Score(
                    labels=labels[:1] if asked.HasField("text_pair") else labels, input_token_count=len(asked.text)
                )
                for asked in request.inputs
            ],
            model="score",
            usage=usage(3, 0),
            timings=timings(),
        )


class Operations(operations_service_pb2_grpc.OperationsServiceServicer):
    def __init__(self, business: FakeBusiness) -> None:
        self._business = business

    async def ListModels(self, request: operations_service_pb2.ListModelsRequest, context: Any) -> Any:
        """Two pages."""
        await self._business.enter(request, context)
        chat = operations_service_pb2.Model(
            name="chat",
            task=operations_service_pb2.TASK_GENERATE,
            source="a [bold]folder",
            max_context_tokens=2048,
            max_texts=1,
            notice=NOTICE,
            ready=True,
        )
        embed = operations_service_pb2.Model(
            name="embed",
            task=operations_service_pb2.TASK_EMBED,
            source="minilm",
            max_context_tokens=256,
            max_texts=MAX_TEXTS,
            dimension_count=384,
        )
        if request.page_token:
            return operations_service_pb2.ListModelsResponse(models=[embed])
        return operations_service_pb2.ListModelsResponse(models=[chat], next_page_token="2")

    async def GetStatus(self, request: operations_service_pb2.GetStatusRequest, context: Any) -> Any:
        await self._business.enter(request, context)
        looked = sum(call.method == "GetStatus" for call in self._business.calls)
        load = operations_service_pb2.ModelLoad(
            model="chat",
            running_sequence_count=2,
            waiting_sequence_count=3,
            queued_token_count=400,
            free_cache_token_count=9000,
            step_duration=duration_pb2.Duration(nanos=12_000_000),
            predicted_wait=duration_pb2.Duration(seconds=1, nanos=500_000_000),
            output_token_count=1000 * looked,
            input_token_count=500 * looked,
            finished_request_count=10 * looked,
            waiting=operations_service_pb2.WaitingByPriority(interactive=1, batch=2),
        )
        replica = operations_service_pb2.Replica(
            address="127.0.0.1:1234",
            replica_id="replica-1",
            state=operations_service_pb2.REPLICA_STATE_READY,
            live_request_count=5,
            models=[load],
            device_time=operations_service_pb2.DeviceTime(
                computing=duration_pb2.Duration(seconds=3 * looked), no_work=duration_pb2.Duration(seconds=looked)
            ),
            totals_age=duration_pb2.Duration(nanos=100_000_000),
        )
        lost = operations_service_pb2.Replica(
            address="127.0.0.1:1235", state=operations_service_pb2.REPLICA_STATE_CONNECTING
        )
        return operations_service_pb2.GetStatusResponse(
            version="0.1.0", uptime=duration_pb2.Duration(seconds=90), replicas=[replica, lost]
        )


@contextmanager
def fake_business(
    address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> Iterator[FakeBusiness]:
    """A running server; `address` may name a Unix socket."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake-business")
    thread.start()

    def on_loop(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        waiting: Future[Any] = asyncio.run_coroutine_threadsafe(make(), loop)
        return waiting.result(timeout=20)

    async def start() -> tuple[FakeBusiness, grpc.aio.Server]:
        business = FakeBusiness()
        server = grpc.aio.server()
        chat_service_pb2_grpc.add_ChatServiceServicer_to_server(Chat(business), server)
        predict_service_pb2_grpc.add_PredictServiceServicer_to_server(Predict(business), server)
        embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(Embedding(business), server)
        score_service_pb2_grpc.add_ScoreServiceServicer_to_server(Score(business), server)
        operations_service_pb2_grpc.add_OperationsServiceServicer_to_server(Operations(business), server)
        port = (
            server.add_secure_port(address, credentials)
            if credentials is not None
            else server.add_insecure_port(address)
        )
        await server.start()
        business.target = f"127.0.0.1:{port}" if address.endswith(":0") else address
        return business, server

    business, server = on_loop(start)
    try:
        yield business
    finally:
        on_loop(lambda: server.stop(None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=20)
        loop.close()
