"""What a seed decides of a fault schedule, and the replicas and the pool that it happens to."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from business_svc.errors import Reason
from business_svc.link.membership import ReconnectSettings
from business_svc.link.outliers import OutlierSettings
from business_svc.link.pool import Pool, PoolSettings
from inference_svc.settings import Settings

from support.chaos_faults import WirePlan
from support.chaos_hosts import TRANSPORTS, Host

SCHEDULE_SECONDS = 20.0  # far above what any takes: only a hang reaches it


@dataclass
class Plan:
    """All that a seed decides."""

    chance: random.Random

    def __post_init__(self) -> None:
        chance = self.chance
        self.replicas = chance.choice((1, 2, 2, 3))
        self.tight = chance.random() < 0.25  # queues so small that requests are refused
        self.most_deaths = chance.choice((1, 2, 1000, 1000))
        self.fragility = chance.choice((0.0, 0.01, 0.05))
        self.requests = chance.randint(4, 20)
        self.acts = chance.choice((0, 0, 1, 2, 3))
        self.window = chance.choice((1, 3, 8, 64))

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in vars(self).items() if name != "chance")

    def wire(self, name: str, world: "World") -> WirePlan:
        chance = random.Random(self.chance.random())
        return WirePlan(
            chance,
            lambda what: world.tell(f"{name}: {what}"),
            self.fragility,
            refusals=chance.choice((0, 0, 3)),
            faults_left=chance.randint(0, 4),
        )

    def host(self, number: int, world: "World") -> Host:
        name = f"replica {number}"
        transport = self.chance.choice(TRANSPORTS)
        settings = Settings(
            listen="127.0.0.1:0" if transport == "tcp" else "",
            score_model="",
            heartbeat_seconds=0.05,
            max_live_requests=self.chance.choice((2, 5)) if self.tight else 2048,
            max_waiting_sequences=1 if self.tight else 4096,
        )
        slots, pause = self.chance.choice((1, 2, 8)), self.chance.choice((0, 0.0005, 0.002))
        world.tell(f"{name}: {transport}, {slots} slots, steps of {pause} s")
        return Host(name, transport, self.wire(name, world), settings, slots, pause)

    def pool_settings(self) -> PoolSettings:
        return PoolSettings(
            heartbeat_timeout=0.3,
            patience=SCHEDULE_SECONDS,
            credit_window=self.window,
            most_deaths=self.most_deaths,
            reconnect=ReconnectSettings(timeout=0.5, first_pause=0.005, longest_pause=0.05),
            outliers=OutlierSettings(first_pause=0.05, longest_pause=0.1, return_time=0.2),
        )


@dataclass
class World:
    """`story` is what happened, for whoever must understand a broken law."""

    plan: Plan
    hosts: list[Host] = field(default_factory=list)
    kills: int = 0
    story: list[str] = field(default_factory=list)
    _pool: Pool | None = None

    def __post_init__(self) -> None:
        self._began = asyncio.get_running_loop().time()
        self.tell(f"plan: {self.plan}")

    @property
    def pool(self) -> Pool:
        assert self._pool is not None
        return self._pool

    def tell(self, what: str) -> None:
        self.story.append(f"{asyncio.get_running_loop().time() - self._began:7.3f} s  {what}")

    @property
    def deaths(self) -> int:
        """Of sessions: by a plan, and by engines that a request killed. A replica that drains is none."""
        return self.kills + sum(host.connector.plan.deaths + host.engine_deaths for host in self.hosts)

    def may_fail_with(self, *, deadline: bool) -> set[Reason]:
        """What a request may be told where that is nobody's fault; anything else is a law broken."""
        allowed: set[Reason] = set()
        if self.deaths >= self.plan.most_deaths:
            allowed.add(Reason.POISON_REQUEST)
        if self.plan.tight:
            allowed.add(Reason.QUEUE_FULL)
        if deadline:
            allowed |= {Reason.DEADLINE_EXPIRED, Reason.DEADLINE_INFEASIBLE, Reason.NO_REPLICA}
        return allowed

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        self.hosts = [self.plan.host(number, self) for number in range(self.plan.replicas)]
        try:
            for host in self.hosts:
                await host.start()
            async with Pool([host.connector for host in self.hosts], self.plan.pool_settings()) as pool:
                self._pool = pool
                yield self
        finally:
            for host in self.hosts:
                await host.close()
