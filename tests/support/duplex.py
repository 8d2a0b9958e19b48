"""A replica without a model: it keeps the session's rules, answers by a function of the prompt, and can die, stall,
drain, refuse and be slow when a test says so."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from seam.inference.v1 import model_service_pb2, session_pb2, work_pb2
from seam.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse

HEARTBEAT = 0.1


def token_at(prompt: str, position: int, seed: int = 0) -> int:
    """The deterministic model: what stands at an output position of an answer."""
    return (hash_of(prompt) + 7919 * (position + 1) + 104729 * seed) % 50_000


def hash_of(text: str) -> int:
    value = 17
    for character in text:
        value = (value * 31 + ord(character)) % 1_000_003
    return value


def text_of(token_id: int) -> str:
    return f" {token_id}"


def answer_of(prompt: str, count: int, seed: int = 0) -> list[int]:
    return [token_at(prompt, position, seed) for position in range(count)]


def text_of_answer(ids: list[int]) -> str:
    return "".join(text_of(one) for one in ids)


def status(reason: str, code: int, message: str = "", retry_after: float | None = None) -> status_pb2.Status:
    told = status_pb2.Status(code=code, message=message or reason)
    told.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="seam"))
    if retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(retry_after * 1e9))
        told.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return told


@dataclass
class Held:
    """A request that a session of the replica holds."""

    submit: session_pb2.Submit
    prompt: str = ""
    seed: int = 0
    position: int = 0
    most: int = 16
    credits: int = 1 << 30
    generated: int = 0
    accepted: bool = False

    @property
    def input_token_count(self) -> int:
        """A resumed request's input has the ids that were given before."""
        if self.submit.HasField("generate"):
            return len(self.prompt) + len(self.submit.generate.resume.output_token_ids)
        return len(self.submit.embed.texts) + len(self.submit.score.inputs)


@dataclass(eq=False)
class ScriptedSession:
    """One session's state on the replica."""

    replica: "ScriptedReplica"
    held: dict[int, Held] = field(default_factory=dict)
    events: list[session_pb2.Event] = field(default_factory=list)
    client_gone: bool = False
    rule_broken: str | None = None

    def take(self, frame: SessionRequest) -> None:
        for submit in frame.submits:
            self._submit(submit)
        for cancel in frame.cancels:
            self.replica.cancelled.append(cancel.request_id)
            if self.held.pop(cancel.request_id, None) is not None:
                self.fail(cancel.request_id, status("CANCELLED", code_pb2.CANCELLED))
        for grant in frame.grants:
            if grant.credits < 1:
                self.rule_broken = "a grant of nothing"
            if grant.request_id in self.held:
                self.held[grant.request_id].credits += grant.credits

    def _submit(self, submit: session_pb2.Submit) -> None:
        replica = self.replica
        if submit.request_id in self.held:
            self.rule_broken = f"request {submit.request_id} twice"
        replica.submitted.append(submit)
        if replica.draining:
            self.fail(submit.request_id, status("DRAINING", code_pb2.UNAVAILABLE, retry_after=0.05))
        elif replica.refusal is not None:
            self.fail(submit.request_id, replica.refusal)
        else:
            self.held[submit.request_id] = _held(submit, own_seed=hash_of(replica.name))

    def fail(self, request_id: int, told: status_pb2.Status) -> None:
        self.events.append(session_pb2.Event(request_id=request_id, failed=told))

    def step(self) -> None:
        """One step of the engine: everything that may run advances by one token, or ends."""
        for request_id, held in list(self.held.items()):
            if not held.accepted:
                held.accepted = True
                accepted = session_pb2.Accepted(input_token_count=held.input_token_count, seed=held.seed)
                self.events.append(session_pb2.Event(request_id=request_id, accepted=accepted))
            which = held.submit.WhichOneof("work")
            if which == "generate":
                self._step_generation(request_id, held)
            else:
                self._answer_whole(request_id, held, which)

    def _step_generation(self, request_id: int, held: Held) -> None:
        if held.position < held.most:
            if held.credits == 0:
                return
            token = token_at(held.prompt, held.position, held.seed)
            held.position += 1
            held.generated += 1
            held.credits -= 1
            self.replica.generated += 1
            tokens = work_pb2.Tokens(ids=[token], text=text_of(token))
            self.events.append(session_pb2.Event(request_id=request_id, tokens=tokens))
        if held.position >= held.most and self.replica.ends:
            usage = work_pb2.Usage(input_token_count=held.input_token_count, output_token_count=held.generated)
            self._finish(request_id, work_pb2.FINISH_REASON_LENGTH, usage)

    def _answer_whole(self, request_id: int, held: Held, which: str | None) -> None:
        event = session_pb2.Event(request_id=request_id)
        if which == "embed":
            texts = list(held.submit.embed.texts)
            for index in reversed(range(len(texts))):
                event.vectors.embeddings.add(index=index, values=[float(len(texts[index])), 1.0], input_token_count=1)
        else:
            texts = [one.text for one in held.submit.score.inputs]
            for index in reversed(range(len(texts))):
                score = event.scores.scores.add(index=index, input_token_count=1)
                score.labels.add(label="length", score=float(len(texts[index])))
        self.events.append(event)
        self._finish(request_id, work_pb2.FINISH_REASON_UNSPECIFIED, work_pb2.Usage(input_token_count=len(texts)))

    def _finish(self, request_id: int, reason: "work_pb2.FinishReason.ValueType", usage: work_pb2.Usage) -> None:
        finished = work_pb2.Finished(reason=reason, usage=usage)
        self.events.append(session_pb2.Event(request_id=request_id, finished=finished))
        del self.held[request_id]


def _held(submit: session_pb2.Submit, own_seed: int) -> Held:
    held = Held(submit)
    if submit.HasField("initial_credits"):
        held.credits = submit.initial_credits
    if submit.HasField("generate"):
        work = submit.generate
        held.prompt = work.prompt.chat.messages[-1].content
        if work.sampling.temperature:
            held.seed = work.sampling.seed if work.sampling.HasField("seed") else own_seed
        held.position = len(work.resume.output_token_ids)
        if work.stop.HasField("max_output_tokens"):
            held.most = work.stop.max_output_tokens
        wrong = list(work.resume.output_token_ids) != answer_of(held.prompt, held.position, held.seed)
        if wrong:
            raise AssertionError("resumed with ids that this answer does not have")
    return held


class ScriptedReplica:
    """`serve` is what a connector is given. Steps by itself unless `by_hand`; then `step` does.

    `before_frame` runs before each frame that carries events, and may kill."""

    def __init__(self, name: str = "replica", *, models: tuple[str, ...] = ("chat", "embed", "score")) -> None:
        self.name = name
        self.models = models
        self.submitted: list[session_pb2.Submit] = []
        self.cancelled: list[int] = []
        self.generated = 0
        self.refusal: status_pb2.Status | None = None
        self.draining = False
        self.dead = False
        self.by_hand = False
        self.ends = True  # False: answers never finish
        self.max_live_requests = 0
        self.predicted_wait = 0.0
        self.step_pause = 0.0
        self.frames_of_events = 0
        self.frames_taken: list[SessionRequest] = []
        self.before_frame: Callable[[int], None] = lambda number: None
        self.sessions: list[ScriptedSession] = []
        self._wake = asyncio.Event()
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._steps_allowed = 0

    # --- what a test does to it ---

    def kill(self) -> None:
        self.dead = True
        self._wake.set()

    def revive(self) -> None:
        self.dead = False

    @property
    def silent(self) -> bool:
        return not self._speaks.is_set()

    def stall(self) -> None:
        """As a stopped process: connections stay, nothing is said."""
        self._speaks.clear()

    def speak(self) -> None:
        self._speaks.set()
        self._wake.set()

    def drain(self) -> None:
        """Hands back what it holds, as a replica that was told to stop."""
        self.draining = True
        for session in self.sessions:
            for request_id in list(session.held):
                session.fail(request_id, status("DRAINING", code_pb2.UNAVAILABLE, retry_after=0.05))
            session.held.clear()
        self._wake.set()

    def undrain(self) -> None:
        self.draining = False
        self._wake.set()

    def welcome_again(self) -> None:
        """No more refusals."""
        self.refusal = None

    def step(self) -> None:
        self._steps_allowed += 1
        self._wake.set()

    @property
    def held(self) -> list[Held]:
        return [one for session in self.sessions for one in session.held.values()]

    # --- the session ---

    async def serve(self, frames: AsyncIterator[SessionRequest]) -> AsyncGenerator[SessionResponse, None]:
        if self.dead:
            raise ConnectionRefusedError(f"{self.name} is not there")
        first = await anext(frames)
        if not first.HasField("hello") or first.submits or first.cancels or first.grants:
            raise ValueError("MALFORMED_FRAME: the first frame has hello alone")
        await self._speaks.wait()
        session = ScriptedSession(self)
        self.sessions.append(session)
        reader = asyncio.create_task(self._read(frames, session))
        try:
            yield self._frame(session, welcome=True)
            while not (session.client_gone and not session.held):
                await self._pause(session)
                if session.rule_broken is not None:
                    raise ValueError(f"MALFORMED_FRAME: {session.rule_broken}")
                frame = self._frame(session)
                if frame.events:
                    self.frames_of_events += 1
                    self.before_frame(self.frames_of_events)
                if self.dead:
                    raise ConnectionResetError(f"{self.name} died")
                if not self.silent:
                    yield frame
        finally:
            self.sessions.remove(session)
            reader.cancel()
            await asyncio.wait([reader])
            if not reader.cancelled():
                reader.result()

    async def _read(self, frames: AsyncIterator[SessionRequest], session: ScriptedSession) -> None:
        async for frame in frames:
            if frame.HasField("hello"):
                session.rule_broken = "a second hello"
            self.frames_taken.append(frame)
            session.take(frame)
            self._wake.set()
        session.client_gone = True

    async def _pause(self, session: ScriptedSession) -> None:
        """Until there is a step to make or a heartbeat to send."""
        if self.step_pause:
            await asyncio.sleep(self.step_pause)
        if self._can_step(session):
            await asyncio.sleep(0)
        elif not session.events:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await self._wake.wait()
        if self._can_step(session):
            self._steps_allowed -= self.by_hand
            session.step()

    def _can_step(self, session: ScriptedSession) -> bool:
        if self.silent or (self.by_hand and self._steps_allowed <= 0):
            return False
        return any(
            not one.accepted or one.credits > 0 or (self.ends and one.position >= one.most)
            for one in session.held.values()
            if self.ends or one.position < one.most or not one.accepted
        )

    def _frame(self, session: ScriptedSession, *, welcome: bool = False) -> SessionResponse:
        frame = SessionResponse()
        if welcome:
            frame.welcome.protocol_revision = 1
            frame.welcome.replica_id = self.name
            frame.welcome.max_live_requests = self.max_live_requests
            for name in self.models:
                frame.welcome.models.append(_model(name))
        state = session_pb2.REPLICA_STATE_DRAINING if self.draining else session_pb2.REPLICA_STATE_READY
        frame.load.state = state
        for name in self.models:
            load = frame.load.models.add(model=name)
            load.running_sequence_count = sum(one.submit.model == name for one in session.held.values())
            load.predicted_wait.FromNanoseconds(int(self.predicted_wait * 1e9))
            load.step_duration.FromNanoseconds(1_000_000)
        frame.events.extend(session.events)
        session.events.clear()
        return frame


_TASKS = {"chat": model_service_pb2.TASK_GENERATE, "embed": model_service_pb2.TASK_EMBED}


def _model(name: str) -> model_service_pb2.Model:
    return model_service_pb2.Model(
        name=name,
        task=_TASKS.get(name, model_service_pb2.TASK_SCORE),
        source="scripted",
        state=model_service_pb2.MODEL_STATE_READY,
        limits=model_service_pb2.ModelLimits(max_context_tokens=4096, max_output_tokens=4096, max_texts=64),
    )


class ScriptedServicer(InferenceServiceServicer):
    """The replica behind gRPC; a death ends the call as a broken process would."""

    def __init__(self, replica: ScriptedReplica) -> None:
        self._replica = replica

    async def Session(
        self, request_iterator: AsyncIterator[SessionRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[SessionResponse]:
        try:
            async with aclosing(self._replica.serve(request_iterator)) as responses:
                async for response in responses:
                    yield response
        except (ConnectionError, ValueError) as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


@asynccontextmanager
async def grpc_replica(
    replica: ScriptedReplica,
    listen: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
) -> AsyncIterator[str]:
    """Serves it at `listen`; gives the address to connect to."""
    server = grpc.aio.server()
    add_InferenceServiceServicer_to_server(ScriptedServicer(replica), server)
    port = server.add_insecure_port(listen) if credentials is None else server.add_secure_port(listen, credentials)
    await server.start()
    try:
        yield listen if listen.startswith("unix:") else f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
