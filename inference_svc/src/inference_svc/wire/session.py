"""One session: frames in, frames out, many requests between. Protobuf but no grpc, so that the same code serves a
stream of a network and a pair of queues in one process.

Rules, as the contract has them:
- hello first and alone, then never again; welcome answers it, heartbeats follow when nothing else does.
- Every submit ends in exactly one failed or finished event; nothing about a request follows its end.
- A request counts as live until its end was put in a frame: a peer that does not read is soon refused new work.
- Nothing that a peer sends, or leaves unread, takes memory without bound.
- When the stream ends in any way but a half-close, everything of it is cancelled at once.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from seam.inference.v1 import session_pb2 as session_pb

from inference_svc.errors import Cancelled, Draining, DuplicateRequest, MalformedFrame, QueueFull, UnknownRequest
from inference_svc.observing import Arrival, RequestWatch
from inference_svc.requests import Event, Failed, Finished, GenerateWork, Request, Work
from inference_svc.wire.allowance import Allowance, window_for
from inference_svc.wire.inference_wire import read_submit
from inference_svc.wire.outbox import Outbox
from inference_svc.wire.replica import Replica

MODELS_CHANGED = "models-changed"  # the capability of both sides
MAX_ENTRIES = 65_536  # submits, cancels and grants in one frame
MAX_REFUSALS = 4_096  # refusals that wait to be read before the session reads on
TOTALS_SECONDS = 0.4  # how old a session's totals are before a frame brings them anew
LOOP_SHARE = 0.005  # seconds of reading a frame before others on the event loop have a turn
TOKEN_COLUMNS = "token-columns"
"""The capability of a client that reads tokens column by column."""

Entry = TypeVar("Entry")


@dataclass(slots=True, eq=False)
class _Live:
    """A request from its submit until its end is in a frame. While `admitting`, grants are kept in `early_credits`;
    `allowance` is there from then on, for a generation."""

    fingerprint: bytes
    watch: RequestWatch
    admitting: asyncio.Task[None] | None = None
    early_credits: int = 0
    allowance: Allowance | None = None
    ended: bool = False


class Session:
    """An outlet of the engine. All but `deliver` runs on the event loop."""

    def __init__(self, replica: Replica, hello: session_pb.Hello) -> None:
        self._replica = replica
        self._tells_models = MODELS_CHANGED in hello.capabilities
        self._models_told = replica.models_version
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(columns=TOKEN_COLUMNS in hello.capabilities)
        self._live: dict[int, _Live] = {}
        self._highest = -1  # of all request ids submitted
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._admissions: set[asyncio.Task[None]] = set()
        self._told_draining = False
        self._given_up: QueueFull | None = None
        self._told_totals = replica.clock()

    # --- the engine's side ---

    def deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        """On the model thread, once a step."""
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._take, events)

    def _take(self, events: Sequence[tuple[int, Event]]) -> None:
        for request_id, event in events:
            live = self._live.get(request_id)
            if live is not None and not live.ended:
                self._tell(request_id, live, event)
        if self._outbox.heavy_bytes > self._replica.limits.max_unread_bytes:
            self._give_up()
        self.wake()

    def _give_up(self) -> None:
        """Nobody reads: what waits is dropped at once, the stream ends when its writer comes back."""
        most = self._replica.limits.max_unread_bytes
        self._given_up = QueueFull(f"the reader left more than {most} bytes of results unread")
        self._replica.engine.close_outlet(self)
        for live in self._live.values():
            live.ended = True
            if live.admitting is not None:
                live.admitting.cancel()
        self._outbox.clear()

    def _tell(self, request_id: int, live: _Live, event: Event) -> None:
        if isinstance(event, Finished | Failed):
            live.ended = True
            live.watch.ended(event)
        self._outbox.put(request_id, event)

    # --- the writer's side ---

    def start(self, frames: AsyncIterator[session_pb.SessionRequest]) -> None:
        self._reader = self._loop.create_task(self._read(frames), name="session reader")
        self._reader.add_done_callback(lambda _: self.wake())

    def wake(self) -> None:
        self._wake.set()

    async def next_frame(self) -> session_pb.SessionResponse | None:
        """The next frame as soon as there is news, or a heartbeat; None when the session is over in order."""
        assert self._reader is not None
        while True:
            self._wake.clear()
            if self._given_up is not None:
                raise self._given_up
            if self._reader.done() and (error := self._reader.exception()) is not None:
                raise error
            if self._outbox or self._told_draining != self._replica.draining or self._models_are_old:
                return self._frame()
            if self._reader.done() and not self._live:
                return None
            if self._replica.draining and not self._live:
                raise Draining("this replica leaves")
            try:
                async with asyncio.timeout(self._replica.limits.heartbeat):
                    await self._wake.wait()
            except TimeoutError:
                return self._frame()

    @property
    def _models_are_old(self) -> bool:
        return self._tells_models and self._models_told != self._replica.models_version

    def _frame(self) -> session_pb.SessionResponse:
        frame = session_pb.SessionResponse()
        if self._models_are_old:
            self._models_told = self._replica.models_version
            frame.models.models.extend(self._replica.models())
        written = self._outbox.fill(frame)
        for request_id, token_count, ended in written:
            if ended:
                del self._live[request_id]
            elif token_count:
                self._go_on(request_id, token_count)
        if written:
            self._replica.observer.frame(len(written))
        self._told_draining = self._replica.draining
        frame.load.CopyFrom(self._replica.load())
        if (now := self._replica.clock()) - self._told_totals >= TOTALS_SECONDS:
            self._told_totals = now
            frame.totals.CopyFrom(self._replica.totals())
        self._room.set()
        return frame

    def _go_on(self, request_id: int, written: int) -> None:
        live = self._live[request_id]
        if live.allowance is not None and not live.ended and (more := live.allowance.written(written)):
            self._replica.engine.grant(self, request_id, more)

    async def close(self) -> None:
        """Cancels everything of the session, and waits until nothing of it runs on the event loop."""
        self._replica.engine.close_outlet(self)
        gone = Failed(Cancelled("the session ended"))
        for live in self._live.values():
            live.watch.ended(gone)
        tasks = [*self._admissions, *([self._reader] if self._reader is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the reader's side ---

    async def _read(self, frames: AsyncIterator[session_pb.SessionRequest]) -> None:
        async for frame in frames:
            if frame.HasField("hello"):
                raise MalformedFrame("hello may only be in the first frame")
            entries = len(frame.submits) + len(frame.cancels) + len(frame.grants)
            if entries > MAX_ENTRIES:
                raise MalformedFrame(f"a frame has at most {MAX_ENTRIES} submits, cancels and grants, not {entries}")
            await self._read_each(frame.submits, self._submit)
            await self._read_each(frame.cancels, self._cancel)
            await self._read_each(frame.grants, self._grant)
            self.wake()
            if self._given_up is not None:
                return
            while self._outbox.refusal_count > MAX_REFUSALS:
                self._room.clear()
                await self._room.wait()

    async def _read_each(self, entries: Sequence[Entry], read: Callable[[Entry], None]) -> None:
        began = self._loop.time()
        for entry in entries:
            read(entry)
            if self._given_up is not None:
                return
            if self._loop.time() - began > LOOP_SHARE:
                self.wake()
                await asyncio.sleep(0)
                began = self._loop.time()

    def _submit(self, submit: session_pb.Submit) -> None:
        request_id = submit.request_id
        fingerprint = hashlib.blake2b(submit.SerializeToString(deterministic=True), digest_size=16).digest()
        if request_id <= self._highest:
            self._submit_again(request_id, fingerprint)
            return
        self._highest = request_id
        limit = self._replica.limits.max_live_requests
        watch = self._replica.observer.received(_arrival_of(submit))
        if self._replica.draining:
            self._refuse(request_id, watch, Draining("this replica takes no new work"))
        elif len(self._live) >= limit:
            self._refuse(request_id, watch, QueueFull(f"the session has {limit} live requests, the most it may"))
        else:
            live = self._live[request_id] = _Live(fingerprint, watch)
            self._admit(request_id, live, submit)

    def _refuse(self, request_id: int, watch: RequestWatch, error: Exception) -> None:
        refusal = Failed(error)
        watch.ended(refusal)
        self._outbox.refuse(request_id, refusal)

    def _submit_again(self, request_id: int, fingerprint: bytes) -> None:
        live = self._live.get(request_id)
        if live is None or live.fingerprint != fingerprint:
            error = DuplicateRequest(f"request {request_id} was submitted before; ids increase within a session")
            self._outbox.refuse(request_id, Failed(error))

    def _admit(self, request_id: int, live: _Live, submit: session_pb.Submit) -> None:
        try:
            request = read_submit(submit, self._replica.clock())
            if self._replica.admission.is_quick(request):
                self._begin(request_id, live, request.work, self._replica.admission.admit_now(request))
                return
        except Exception as error:  # this request's own failure
            self._tell(request_id, live, Failed(error))
            return
        live.admitting = self._loop.create_task(self._admit_slowly(request_id, live, request), name="admission")
        self._admissions.add(live.admitting)
        live.admitting.add_done_callback(self._admissions.discard)

    async def _admit_slowly(self, request_id: int, live: _Live, request: Request) -> None:
        try:
            ready = await self._replica.admission.admit(request)
            live.admitting = None
            self._begin(request_id, live, request.work, ready)
            if live.early_credits:
                self._hand_over(request_id, live, live.early_credits)
        except Exception as error:  # this request's own failure
            self._tell(request_id, live, Failed(error))
        self.wake()

    def _begin(self, request_id: int, live: _Live, work: Work, ready: Any) -> None:
        """`ready` is what admission made of the work; of a generation it has the credits."""
        if isinstance(work, GenerateWork):
            live.allowance = Allowance(ready.credits, window_for(work.detail.top_logprob_count))
            if (first := live.allowance.hand_over()) != ready.credits:
                ready = replace(ready, credits=first)
        live.watch.admitted()
        self._replica.engine.submit(self, request_id, ready)
        self._tell(request_id, live, self._replica.admission.accepted(ready))

    def _cancel(self, cancel: session_pb.Cancel) -> None:
        request_id = cancel.request_id
        live = self._live.get(request_id)
        if live is None or live.ended:
            return
        if live.admitting is None:
            self._replica.engine.cancel(self, request_id)  # which tells of it
        else:
            live.admitting.cancel()
            self._tell(request_id, live, Failed(Cancelled("the caller cancelled")))

    def hand_back(self) -> None:
        """Everything live fails with Draining: what the reader has by then is where it goes on elsewhere."""
        for request_id, live in self._live.items():
            if live.ended:
                continue
            if live.admitting is None:
                self._replica.engine.cancel(self, request_id)
            else:
                live.admitting.cancel()
            self._tell(request_id, live, Failed(Draining("this replica leaves and hands back its work")))
        self.wake()

    def _grant(self, grant: session_pb.Grant) -> None:
        request_id, more = grant.request_id, grant.credits
        if more < 1:
            raise MalformedFrame(f"a grant of no credits for request {request_id}")
        live = self._live.get(request_id)
        if live is None:
            if request_id > self._highest:
                error = UnknownRequest(f"request {request_id} was never submitted in this session")
                self._outbox.refuse(request_id, Failed(error))
        elif live.admitting is not None:
            live.early_credits += more
        elif not live.ended:
            self._hand_over(request_id, live, more)

    def _hand_over(self, request_id: int, live: _Live, credits: int) -> None:
        if live.allowance is not None and (more := live.allowance.granted(credits)):
            self._replica.engine.grant(self, request_id, more)


def _arrival_of(submit: session_pb.Submit) -> Arrival:
    context = submit.context
    return Arrival(
        way="session",
        model=submit.model,
        task=submit.WhichOneof("work") or "",
        tenant=context.tenant_key,
        traceparent=context.trace.traceparent,
        tracestate=context.trace.tracestate,
        given=len(submit.generate.resume.output_token_ids),
    )
