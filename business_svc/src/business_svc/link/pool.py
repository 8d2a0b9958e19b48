"""Inference over a pool of replicas: each request to the replica that answers it soonest, and on to another when that
one refuses, drains or dies, so that the caller sees one answer."""

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from business_svc.domain.inference import (
    Accepted,
    Context,
    Embedding,
    Embeddings,
    EmbedRequest,
    Finished,
    GenerateRequest,
    GenerationEvent,
    Model,
    Replica,
    Score,
    ScoreRequest,
    Scores,
    Tokens,
)
from business_svc.errors import Reason, SeamError
from business_svc.link.duplex import Connector
from business_svc.link.exchange import Exchange
from business_svc.link.inference_wire import Failed, News, Scored, Vectors, unready
from business_svc.link.journey import Journey, Next
from business_svc.link.membership import Member, Membership, ReconnectSettings
from business_svc.link.outliers import OutlierSettings
from business_svc.link.picker import Picker
from business_svc.link.placing import Placing
from business_svc.link.prefix import Prefix, prefixes_of
from business_svc.link.retry_budget import RetryBudget
from business_svc.link.session import SessionSettings
from business_svc.observing import UNOBSERVED, Observer, Operation, Trail

_Result = TypeVar("_Result")

_FAULTS = frozenset({Reason.STEP_FAILED, Reason.NUMERICAL_FAULT, Reason.INTERNAL_FAULT, Reason.ENGINE_STOPPED})


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """`patience`: seconds that a request without a deadline waits for a replica. `most_waiting`: requests that may wait
    so at once; the next is refused. `most_deaths`: replicas that may die with a request in flight before it counts as
    poison. `credit_window`: tokens of one generation that may be on the way or unread. `max_request_bytes`: below the
    replicas' own limit on messages."""

    client_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    user_agent: str = "seam-business/0.1.0"
    credit_window: int = 64
    heartbeat_timeout: float = 2.0
    max_request_bytes: int = 15 * 1024 * 1024
    patience: float = 5.0
    most_waiting: int = 1024
    most_deaths: int = 2
    retry_share: float = 0.1
    retry_floor: int = 3
    reconnect: ReconnectSettings = field(default_factory=ReconnectSettings)
    outliers: OutlierSettings = field(default_factory=OutlierSettings)


class Pool:
    """Implements business_svc.ports.Inference. Enter it to connect; leaving it ends every session."""

    def __init__(
        self, connectors: Sequence[Connector], settings: PoolSettings | None = None, observer: Observer = UNOBSERVED
    ) -> None:
        self._settings = settings or PoolSettings()
        self._connectors = connectors
        self._observer = observer
        self._picker = Picker(self._settings.outliers)
        self._budget = RetryBudget(share=self._settings.retry_share, floor=self._settings.retry_floor)
        session = SessionSettings(
            client_id=self._settings.client_id,
            user_agent=self._settings.user_agent,
            credit_window=self._settings.credit_window,
            heartbeat_timeout=self._settings.heartbeat_timeout,
            max_request_bytes=self._settings.max_request_bytes,
        )
        self._members = Membership(session, self._settings.reconnect, self._joined, self._lost, self._changed, observer)
        self._placing = Placing(self._members, self._picker, self._settings.patience, self._settings.most_waiting)

    async def __aenter__(self) -> "Pool":
        await self._members.__aenter__()
        self._placing.open()
        for connector in self._connectors:
            self.add(connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._placing.close()
        await self._members.__aexit__()

    # --- who is in it ---

    def add(self, connector: Connector) -> None:
        self._members.add(connector)

    def remove(self, address: str, grace: float = 0.0) -> None:
        """What runs there has `grace` seconds to end, and goes elsewhere then."""
        self._members.remove(address, grace)
        self._picker.forget(address)

    @property
    def addresses(self) -> frozenset[str]:
        return frozenset(member.address for member in self._members)

    async def ready(self, count: int = 1) -> None:
        """Returns when `count` replicas take work; the caller bounds the wait."""
        await self._placing.until(lambda: sum(member.open for member in self._members) >= count)

    def models(self) -> Sequence[Model]:
        known: dict[str, Model] = {}
        for member in self._members:
            for model in member.models:
                now = model if member.open else unready(model)
                if model.name not in known or (now.ready and not known[model.name].ready):
                    known[model.name] = now
        return tuple(known.values())

    def replicas(self) -> Sequence[Replica]:
        return tuple(member.told() for member in self._members)

    def _joined(self, member: Member) -> None:
        self._picker.reconnected(member.address)
        self._placing.changed()

    def _changed(self) -> None:
        self._placing.changed()

    def _lost(self, member: Member) -> None:
        self._picker.failed(member.address, asyncio.get_running_loop().time())

    # --- what it answers ---

    async def generate(self, request: GenerateRequest, context: Context) -> AsyncGenerator[GenerationEvent, None]:
        loop = asyncio.get_running_loop()
        request = _seeded(request)
        prefixes = prefixes_of(request.model, context.tenant, request.messages)
        journey, trail = self._begin(), self._observer.trail(Operation.CHAT, request.model, context)
        while True:
            member, exchange = await self._depart(request, context, journey, trail, prefixes)
            try:
                while not isinstance(news := await exchange.next(), Failed):
                    match news:
                        case Tokens():
                            journey.tokens(news, loop.time())
                            yield news
                        case Accepted():
                            if journey.accepted(news):
                                yield news
                        case Finished():
                            self._learn(member, request.model, news)
                            trail.answered(news.usage)
                            yield journey.finished(news, loop.time())
                            return
                        case _:
                            raise _unasked(news)
            except BaseException:
                trail.left()
                raise
            finally:
                exchange.close()
            self._go_on(journey, trail, member, request.model, news.error)

    async def embed(self, request: EmbedRequest, context: Context) -> Embeddings:
        vectors: dict[int, Embedding] = {}
        trail = self._observer.trail(Operation.EMBEDDINGS, request.model, context)
        finished = await self._gather(request, context, trail, vectors, {})
        embeddings = _in_order(vectors, len(request.texts))
        return Embeddings(embeddings, finished.usage, finished.timings)

    async def score(self, request: ScoreRequest, context: Context) -> Scores:
        scores: dict[int, Score] = {}
        trail = self._observer.trail(Operation.SCORE, request.model, context)
        finished = await self._gather(request, context, trail, {}, scores)
        return Scores(_in_order(scores, len(request.inputs)), finished.usage, finished.timings)

    async def _gather(
        self,
        request: EmbedRequest | ScoreRequest,
        context: Context,
        trail: Trail,
        vectors: dict[int, Embedding],
        scores: dict[int, Score],
    ) -> Finished:
        """Fills what was asked for. A replica that fails leaves nothing behind: the whole request goes elsewhere."""
        loop = asyncio.get_running_loop()
        journey = self._begin()
        while True:
            vectors.clear()
            scores.clear()
            member, exchange = await self._depart(request, context, journey, trail)
            try:
                while not isinstance(news := await exchange.next(), Failed):
                    match news:
                        case Vectors(embeddings):
                            vectors.update(embeddings)
                        case Scored(scored):
                            scores.update(scored)
                        case Finished():
                            self._learn(member, request.model, news)
                            trail.answered(news.usage)
                            return journey.finished(news, loop.time())
                        case Accepted():
                            journey.accepted(news)
                        case _:
                            raise _unasked(news)
            except BaseException:
                trail.left()
                raise
            finally:
                exchange.close()
            self._go_on(journey, trail, member, request.model, news.error)

    # --- from replica to replica ---

    def _begin(self) -> Journey:
        now = asyncio.get_running_loop().time()
        self._budget.request(now)
        return Journey(self._settings.most_deaths, now)

    async def _depart(
        self,
        request: GenerateRequest | EmbedRequest | ScoreRequest,
        context: Context,
        journey: Journey,
        trail: Trail,
        prefixes: Sequence[Prefix] = (),
    ) -> tuple[Member, Exchange]:
        try:
            member = await self._placing.find(request.model, context, journey, prefixes)
        except SeamError as error:
            trail.nowhere(error)
            raise
        assert member.session is not None  # found open, and nothing has run since
        sent = trail.departs(member.address, member.replica_id, len(journey.given))
        try:
            exchange = member.session.open(request, sent, tuple(journey.given))
        except SeamError as error:
            trail.failed(error, Next.GIVE_UP.value)
            raise
        journey.departs(asyncio.get_running_loop().time())
        return member, exchange

    def _go_on(self, journey: Journey, trail: Trail, member: Member, model: str, error: SeamError) -> None:
        """Returns when the request may go to another replica. Raises what the caller must be told otherwise."""
        now = asyncio.get_running_loop().time()
        if error.reason in _FAULTS:
            self._picker.failed(member.address, now)
        if error.reason is Reason.QUEUE_FULL:
            self._picker.refused(model, member.standing(model), now, error.retry_after)
        try:
            then = journey.failed(member.address, error, now)
        except SeamError as poison:
            trail.failed(poison, Next.GIVE_UP.value)
            raise
        if then is Next.RETRY and not journey.started and not self._budget.allows(now):
            then = Next.GIVE_UP
        trail.failed(error, "resume" if journey.started and then is not Next.GIVE_UP else then.value)
        if then is Next.GIVE_UP:
            raise error

    def _learn(self, member: Member, model: str, news: Finished) -> None:
        self._picker.succeeded(member.address, asyncio.get_running_loop().time())
        computed = news.usage.input_token_count - news.usage.cached_token_count
        self._picker.prefilled(model, computed, news.timings.prefill)


def _seeded(request: GenerateRequest) -> GenerateRequest:
    """A sampled request gets its seed here, so that any replica can go on where another stopped."""
    sampling = request.sampling
    if not sampling.temperature or sampling.seed is not None:
        return request
    return replace(request, sampling=replace(sampling, seed=random.SystemRandom().getrandbits(63)))


def _in_order(found: Mapping[int, _Result], count: int) -> tuple[_Result, ...]:
    if len(found) != count or any(index not in found for index in range(count)):
        raise SeamError(Reason.INTERNAL_FAULT, f"the replica answered {len(found)} of {count} texts and called it done")
    return tuple(found[index] for index in range(count))


def _unasked(news: News) -> SeamError:
    return SeamError(Reason.INTERNAL_FAULT, f"the replica answered with {type(news).__name__.lower()}, unasked")
