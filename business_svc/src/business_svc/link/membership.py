"""The replicas of a pool: one session each, kept up for as long as the replica is a member."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from business_svc.domain.inference import Model, ModelLoad, Replica, ReplicaState
from business_svc.link.duplex import Connector, DuplexLost
from business_svc.link.inference_wire import model_of
from business_svc.link.picker import Standing
from business_svc.link.session import Session, SessionEnded, SessionSettings
from business_svc.link.tls import PeerRefused
from business_svc.observing import Observer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReconnectSettings:
    """Seconds. A try to connect may take `timeout`; tries are `first_pause` apart, doubling up to `longest_pause`,
    each shortened by a random part so that many clients do not come back in step."""

    timeout: float = 5.0
    first_pause: float = 0.05
    longest_pause: float = 1.0


@dataclass(slots=True, eq=False)
class Member:
    """A replica that belongs to the pool, connected or not. `models` are those that it answers for, as it last told."""

    connector: Connector
    last_session: Session | None = None
    models: tuple[Model, ...] = ()
    replica_id: str = ""
    unreached: str = ""  # why, the last time

    @property
    def session(self) -> Session | None:
        """While it lives."""
        return None if self.last_session is None or self.last_session.over else self.last_session

    @property
    def address(self) -> str:
        return self.connector.address

    @property
    def welcomed(self) -> bool:
        return bool(self.replica_id)

    @property
    def open(self) -> bool:
        session = self.session
        return session is not None and session.state is ReplicaState.READY

    def serves(self, model: str) -> bool:
        return any(one.name == model for one in self.models)

    def standing(self, model: str) -> Standing:
        session = self.session
        if session is None:
            return Standing(self.address, open=False)
        load = session.loads.get(model, ModelLoad(model))
        return Standing(
            address=self.address,
            open=self.open,
            full=session.full,
            hop=self.connector.hop,
            predicted_wait=load.predicted_wait,
            running=load.running_sequence_count,
            waiting=load.waiting_sequence_count,
            step_duration=load.step_duration,
            unseen=session.unseen[model],
        )

    def told(self) -> Replica:
        session = self.session
        if session is None:
            return Replica(self.address, self.replica_id, ReplicaState.CONNECTING, 0, ())
        loads = tuple(session.loads.values())
        return Replica(self.address, self.replica_id, session.state, session.live_request_count, loads, session.totals)


class Membership:
    """Owns the members and the task that keeps each connected. `joined` and `lost` are told of sessions that begin
    and that end badly, `changed` when what a replica serves is not what it was."""

    def __init__(
        self,
        session: SessionSettings,
        reconnect: ReconnectSettings,
        joined: Callable[[Member], None],
        lost: Callable[[Member], None],
        changed: Callable[[], None],
        observer: Observer,
    ) -> None:
        self._session_settings = session
        self._reconnect = reconnect
        self._joined = joined
        self._lost = lost
        self._changed = changed
        self._observer = observer
        self._members: dict[str, Member] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> "Membership":
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (*self._keepers.values(), *self._leaving):
            task.cancel()
        await self._tasks.__aexit__(None, None, None)

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members.values()))  # metrics are read on a thread of their own

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, address: str) -> Member:
        return self._members[address]

    def __contains__(self, address: object) -> bool:
        return address in self._members

    def add(self, connector: Connector) -> None:
        """A replica joins; one of the same address that is already there stays."""
        if connector.address in self._members:
            return
        member = Member(connector)
        self._members[member.address] = member
        self._keepers[member.address] = self._tasks.create_task(self._keep(member), name=f"replica {member.address}")

    def remove(self, address: str, grace: float) -> None:
        """A replica leaves: it gets nothing new at once, and what runs on it has `grace` seconds to end before it goes
        elsewhere. Unknown addresses are ignored."""
        member = self._members.pop(address, None)
        keeper = self._keepers.pop(address, None)
        if member is None or keeper is None:
            return
        if member.session is None or not grace:
            keeper.cancel()
            return
        leaving = self._tasks.create_task(self._let_go(member.session, keeper, grace), name=f"{address} leaves")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _let_go(self, session: Session, keeper: asyncio.Task[None], grace: float) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await session.emptied()
        finally:
            keeper.cancel()

    async def _keep(self, member: Member) -> None:
        pause = self._reconnect.first_pause
        while True:
            if await self._stay_connected(member):
                pause = self._reconnect.first_pause
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(self._reconnect.longest_pause, pause * 2)

    async def _stay_connected(self, member: Member) -> bool:
        """One connection from its beginning to its end. Returns whether there was a session."""
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._reconnect.timeout) as connecting:
                duplex = await member.connector.connect()
                try:
                    session = await Session.greet(duplex, self._session_settings)
                    connecting.reschedule(None)
                    self._begin(member, session)
                    why = await session.run()
                finally:
                    await duplex.aclose()
        except (DuplexLost, SessionEnded, TimeoutError) as error:
            self._tell_why(member, error)
            return False
        left = session.state is ReplicaState.DRAINING
        self._observer.session_ended(member.address, asyncio.get_running_loop().time() - began, why, left)
        _log.log(logging.INFO if left else logging.WARNING, "session with replica %s ended: %s", member.address, why)
        if not left:
            self._lost(member)
        return True

    def _tell_why(self, member: Member, error: Exception) -> None:
        """A replica that is away comes back; sides that do not believe each other wait for somebody who reads this."""
        why = str(error) or "no welcome in time"
        new, member.unreached = why != member.unreached, why
        level = logging.WARNING if new and isinstance(error, PeerRefused) else logging.INFO
        _log.log(level, "replica %s cannot be reached: %s", member.address, why)

    def _begin(self, member: Member, session: Session) -> None:
        member.last_session = session
        member.models = _answering(session)
        member.replica_id = session.welcome.replica_id
        session.models_changed = lambda: self._take_models(member, session)
        self._joined(member)

    def _take_models(self, member: Member, session: Session) -> None:
        member.models = _answering(session)
        self._changed()


def _answering(session: Session) -> tuple[Model, ...]:
    models = [model_of(one) for one in session.models]
    return tuple(one for one in models if one is not None and one.ready)
