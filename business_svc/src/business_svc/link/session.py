"""One session with one replica: many requests over one duplex."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Never

from seam.inference.v1 import model_service_pb2, session_pb2
from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse, Welcome

from business_svc.domain.inference import (
    Context,
    EmbedRequest,
    GenerateRequest,
    ModelLoad,
    ReplicaState,
    ScoreRequest,
    Totals,
)
from business_svc.errors import Reason, SeamError
from business_svc.link.credits import Credits, CreditsOverdrawn
from business_svc.link.duplex import Duplex, DuplexLost
from business_svc.link.exchange import Exchange, PeerBroke, expired
from business_svc.link.heartbeat import Silence, patience
from business_svc.link.inference_wire import ColumnsBroken, columns_of, load_of, submit_of, totals_of
from business_svc.link.outbox import Outbox

PROTOCOL_REVISION = 1
TOKEN_COLUMNS = "token-columns"
"""The capability of reading tokens column by column."""
MOST_MODELS = 4096  # of one replica
MODELS_CHANGED = "models-changed"  # a capability: we are told when the replica's models change


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """`credit_window`: tokens of one generation that may be on the way or unread.
    `heartbeat_timeout`: seconds of silence after which a replica is taken for dead (it sends a frame every 0.5 s), or
    more where it told that it beats more seldom.
    `frame_bytes`: requests of one tick share a frame up to about this size. `max_request_bytes`: one that alone is
    bigger is refused; the replica's limit on messages must be above it."""

    client_id: str
    user_agent: str = "seam-business/0.1.0"
    credit_window: int = 64
    heartbeat_timeout: float = 2.0
    frame_bytes: int = 1024 * 1024
    max_request_bytes: int = 15 * 1024 * 1024


class SessionEnded(Exception):
    """Why a session is over."""


class Session:
    """Owned by whoever runs it: `run` returns when the session is over, and every request on it has then ended.

    Requests may be opened until then. A request that is lost with the session ends with REPLICA_LOST.
    """

    def __init__(self, duplex: Duplex, first: SessionResponse, settings: SessionSettings) -> None:
        self.welcome: Welcome = first.welcome
        self.models: Sequence[model_service_pb2.Model] = first.welcome.models  # as last told
        self.models_changed: Callable[[], None] = lambda: None
        self.unseen: Counter[str] = Counter()  # by model: submitted, not yet in any load told to us
        self._duplex = duplex
        self._settings = settings
        self._load = first.load
        self._loads: dict[str, ModelLoad] | None = None
        self._now = asyncio.get_running_loop().time  # which whoever gathers metrics may read on a thread of its own
        self._totals: tuple[session_pb2.Totals, float] | None = None  # and when they came
        self._note_totals(first)
        self._outbox = Outbox(settings.frame_bytes)
        self._wake = asyncio.Event()
        self._live: dict[int, Exchange] = {}
        self._empty = asyncio.Event()
        self._last_id = 0
        self._over: str | None = None
        self._left = False
        self._patience = patience(settings.heartbeat_timeout, first.welcome.capabilities)
        self._silence = Silence(self._patience / 20, self._patience)

    @classmethod
    async def greet(cls, duplex: Duplex, settings: SessionSettings) -> "Session":
        """Hello and welcome. Raises DuplexLost, SessionEnded."""
        hello = session_pb2.Hello(
            protocol_revision=PROTOCOL_REVISION,
            client_id=settings.client_id,
            user_agent=settings.user_agent,
            capabilities=[TOKEN_COLUMNS, MODELS_CHANGED],
        )
        with suppress(DuplexLost):  # who refuses a session may have ended it by now: the reader learns why
            await duplex.send(SessionRequest(hello=hello))
        first = await duplex.receive()
        if first is None:
            raise SessionEnded("the replica ended the session instead of welcoming")
        if not first.HasField("welcome"):
            raise SessionEnded("the replica's first frame has no welcome")
        if first.welcome.protocol_revision != PROTOCOL_REVISION:
            raise SessionEnded(f"the replica speaks protocol revision {first.welcome.protocol_revision}")
        try:
            _check_models(first)
        except PeerBroke as broke:
            raise _broke(broke) from broke
        return cls(duplex, first, settings)

    # --- what the pool looks at ---

    @property
    def over(self) -> bool:
        return self._over is not None

    @property
    def state(self) -> ReplicaState:
        draining = self._load.state == session_pb2.REPLICA_STATE_DRAINING
        return ReplicaState.DRAINING if draining else ReplicaState.READY

    @property
    def loads(self) -> dict[str, ModelLoad]:
        """By model, as the last frame told."""
        loads = self._loads
        if loads is None:
            loads = self._loads = {one.model: load_of(one) for one in self._load.models}
        return loads

    @property
    def totals(self) -> Totals | None:
        """As last told; None where the replica has told none."""
        if self._totals is None:
            return None
        told, came = self._totals
        return totals_of(told, self._now() - came)

    @property
    def live_request_count(self) -> int:
        return len(self._live)

    @property
    def full(self) -> bool:
        most = self.welcome.max_live_requests
        return bool(most) and len(self._live) >= most

    # --- requests ---

    def open(
        self,
        request: GenerateRequest | EmbedRequest | ScoreRequest,
        context: Context,
        output_token_ids: tuple[int, ...] = (),
    ) -> Exchange:
        """Begins a request; its submit leaves with this tick's frame. Raises SeamError."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._over is not None:
            raise self._lost()
        if context.deadline is not None and context.deadline <= now:
            raise expired()
        request_id = self._last_id + 1
        window = self._settings.credit_window if isinstance(request, GenerateRequest) else None
        submit = submit_of(request_id, request, context, now=now, credits=window, output_token_ids=output_token_ids)
        self._check_size(submit)
        self._last_id = request_id
        exchange = Exchange(
            request.model,
            None if window is None else Credits(window),
            _result_count(request),
            grant=lambda granted: self._grant(request_id, granted),
            leave=lambda: self._cancel(request_id),
        )
        if context.deadline is not None:
            exchange.expire_with(loop.call_at(context.deadline, self._expire, request_id))
        self._live[request_id] = exchange
        self._empty.clear()
        self.unseen[request.model] += 1
        self._outbox.submit(submit)
        self._wake.set()
        return exchange

    def _check_size(self, submit: session_pb2.Submit) -> None:
        size, most = submit.ByteSize(), self._settings.max_request_bytes
        if size > most:
            raise SeamError(
                Reason.MESSAGE_TOO_LARGE, f"the request takes {size} bytes on the way to a replica, at most {most} fit"
            )

    def _grant(self, request_id: int, credits: int) -> None:
        if self._over is None and request_id in self._live:
            self._outbox.grant(request_id, credits)
            self._wake.set()

    def _cancel(self, request_id: int) -> None:
        if self._over is not None or request_id not in self._live:
            return
        if not self._outbox.cancel(request_id):
            self._forget(request_id)
        self._wake.set()

    def _expire(self, request_id: int) -> None:
        exchange = self._live.get(request_id)
        if exchange is not None and not exchange.ended:
            exchange.fail(expired())
            self._cancel(request_id)

    def _forget(self, request_id: int) -> None:
        exchange = self._live.pop(request_id)
        self._outbox.forget(request_id)
        exchange.release()
        if not exchange.seen:
            self.unseen[exchange.model] -= 1
        if not self._live:
            self._empty.set()

    async def emptied(self) -> None:
        """Returns when no request is live, or the session is over."""
        if self._live:
            await self._empty.wait()

    # --- the life of the session ---

    async def run(self) -> str:
        """Carries frames until the session is over; returns why. Cancelling it ends the session too.

        No TaskGroup: on Python 3.11 one that fails at the moment of a cancel swallows the cancel.
        """
        parts = [
            asyncio.create_task(self._read(), name="session reader"),
            asyncio.create_task(self._write(), name="session writer"),
            asyncio.create_task(self._watch(), name="session watch"),
        ]
        why = None
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
            why = _reason(next(part for part in done if part.exception() is not None))
        finally:
            self._end(why)
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
        return why

    async def _read(self) -> Never:
        while (frame := await self._duplex.receive()) is not None:
            self._silence.heard()
            try:
                self._take(frame)
            except (CreditsOverdrawn, PeerBroke, ColumnsBroken) as broke:
                raise _broke(broke) from broke
        raise SessionEnded("the replica ended the session")

    def _take(self, frame: SessionResponse) -> None:
        _check_models(frame)
        self._load, self._loads = frame.load, None
        self._note_totals(frame)
        if frame.HasField("models"):  # before the events: what is handed back must not come here again
            self.models = frame.models.models
            self.models_changed()
        if frame.HasField("tokens"):
            for request_id, tokens in columns_of(frame.tokens):
                self._of(request_id).deliver_tokens(tokens)
        for event in frame.events:
            exchange = self._of(event.request_id)
            self._note_seen(exchange)
            if exchange.deliver(event):
                self._forget(event.request_id)

    def _of(self, request_id: int) -> Exchange:
        exchange = self._live.get(request_id)
        if exchange is None:  # never submitted, or its end was told: who confuses requests may confuse readers
            raise PeerBroke(f"news of request {request_id}, which is not live")
        return exchange

    def _note_totals(self, frame: SessionResponse) -> None:
        if frame.HasField("totals"):
            self._totals = frame.totals, self._now()

    def _note_seen(self, exchange: Exchange) -> None:
        if not exchange.seen:
            self.unseen[exchange.model] -= 1

    async def _write(self) -> None:
        """Returns when the duplex takes no more. That ends nothing yet: what the replica said before is still to be
        read, and then why it went; a reader that learns neither is ended by the replica's silence."""
        with suppress(DuplexLost):
            while True:
                await self._wake.wait()
                self._wake.clear()
                for frame in self._outbox.frames():
                    await self._duplex.send(frame)

    async def _watch(self) -> Never:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(self._silence.tick)
            if self._silence.waited(loop.time() - before):
                raise SessionEnded(f"the replica was silent for {self._patience:g} s")

    def _end(self, why: str | None) -> None:
        """`why` is None where this side leaves."""
        self._left = why is None or self.state is ReplicaState.DRAINING
        self._over = why or "closed from this side"
        live, self._live = self._live, {}
        for exchange in live.values():
            exchange.release()
            exchange.fail(self._lost())
        self.unseen.clear()
        self._empty.set()

    def _lost(self) -> SeamError:
        if self._left:  # in order: no death that a request could be blamed for
            return SeamError(Reason.DRAINING, f"the replica left: {self._over}", retry_after=0.1)
        return SeamError(Reason.REPLICA_LOST, f"the replica was lost: {self._over}", retry_after=0.1)


def _broke(broke: Exception) -> SessionEnded:
    return SessionEnded(f"the replica broke the session's rules: {broke}")


def _check_models(frame: SessionResponse) -> None:
    """Loads and models are kept until the next frame tells others. Raises PeerBroke."""
    kinds = (frame.load, frame.models, frame.welcome, frame.totals)
    told = max(len(kind.models) for kind in kinds)
    if told > MOST_MODELS:
        raise PeerBroke(f"{told} models, at most {MOST_MODELS} are believed")


def _reason(ended: "asyncio.Task[Never] | asyncio.Task[None]") -> str:
    """Raises what is a fault of ours."""
    error = ended.exception()
    if isinstance(error, SessionEnded | DuplexLost):
        return str(error)
    assert error is not None  # none of the parts returns
    raise error


def _result_count(request: GenerateRequest | EmbedRequest | ScoreRequest) -> int:
    match request:
        case GenerateRequest():
            return 0
        case EmbedRequest(texts=texts):
            return len(texts)
        case ScoreRequest(inputs=inputs):
            return len(inputs)
