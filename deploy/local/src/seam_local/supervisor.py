"""Processes under one roof: started together, watched, stopped in order."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seam_client import AsyncSeam, ReplicaState

from seam_local import children
from seam_local.certificates import make_link_certificates
from seam_local.child import Child, ChildDied, Ending
from seam_local.faults import StartTimeout
from seam_local.plan import Plan
from seam_local.ready import Ready
from seam_local.restarts import Backoff
from seam_local.screen import Screen

IN_USE_POLL_SECONDS = 0.05
JOIN_SECONDS = 60.0  # until the business has reached replicas that serve
SLACK_SECONDS = 3.0  # after its own time to drain, a child closes what it holds

Announce = Callable[[Ready], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Replica:
    name: str
    child: Child | None = None
    address: str = ""
    metrics: str = ""
    started_at: float = 0.0
    is_serving: bool = False
    backoff: Backoff = field(default_factory=Backoff)


class Supervisor:
    """Starts what a plan asks for and keeps it. `announce` is called when everything serves, and again whenever an
    address or a pid has changed."""

    def __init__(self, plan: Plan, environment: Mapping[str, str], screen: Screen) -> None:
        self._plan = plan
        self._environment = dict(environment)
        self._screen = screen
        self._folder = Path(tempfile.mkdtemp(prefix="seam-"))
        self._certificates = make_link_certificates(self._folder) if plan.tls else None
        self._replicas = [_Replica(f"inference-{n}") for n in range(1, plan.replica_count + 1)]
        self._business: Child | None = None
        self._business_ready: children.BusinessReady | None = None

    async def run(self, announce: Announce) -> None:
        """Until cancelled. Raises ChildDied or StartTimeout when what is left cannot serve."""
        with self._screen.progress(f"starting {self._plan.topology.value}: models load, this may take a while"):
            await _all(*(self._start(replica) for replica in self._replicas))
            await self._start_business()
        await announce(self._ready())
        await _all(self._watch_business(), *(self._keep(replica, announce) for replica in self._replicas))

    async def stop(self) -> None:
        """The business first: it drains what it answers, for which it needs the replicas."""
        if self._business:
            await self._business.stop(self._plan.grace + SLACK_SECONDS)
        await _all(
            *(replica.child.stop(self._plan.grace + SLACK_SECONDS) for replica in self._replicas if replica.child)
        )
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self) -> None:
        """Everything at once."""
        for child in [self._business, *(replica.child for replica in self._replicas)]:
            if child:
                child.kill()

    async def _start(self, replica: _Replica) -> None:
        """Again at the address it had, so that the business finds it there."""
        ready_file = self._folder / f"{replica.name}.json"
        started = children.inference(
            self._plan,
            replica.name,
            replica.address,
            self._environment,
            ready_file,
            self._certificates,
            replica.metrics,
        )
        replica.started_at = asyncio.get_running_loop().time()
        replica.child = await started.start(self._screen.child_line)
        content = await replica.child.ready(self._plan.start_timeout)
        replica.address = children.inference_address(content)
        replica.metrics = "".join(children.metrics_addresses(content))
        replica.is_serving = True

    async def _start_business(self) -> None:
        ready_file = self._folder / "business.json"
        wanted = children.business(
            self._plan, self._replica_addresses(), self._environment, ready_file, self._certificates
        )
        self._business = await wanted.start(self._screen.child_line)
        self._business_ready = children.business_ready(await self._business.ready(self._join_timeout))
        await self._all_in_use(self._business_ready.grpc)

    async def _all_in_use(self, grpc: str) -> None:
        """The business says that it serves when one replica is in use; this waits for the others."""
        try:
            async with (
                asyncio.timeout(JOIN_SECONDS),
                AsyncSeam(grpc, api_key=self._plan.keys.shown) as seam,
            ):
                while True:
                    replicas = (await seam.status()).replicas
                    if all(replica.state is ReplicaState.READY for replica in replicas):
                        return
                    await asyncio.sleep(IN_USE_POLL_SECONDS)
        except TimeoutError:
            raise StartTimeout(f"the business server does not reach all of {self._replica_addresses()}") from None

    async def _watch_business(self) -> None:
        assert self._business is not None
        raise ChildDied(await self._business.ended())

    async def _keep(self, replica: _Replica, announce: Announce) -> None:
        """Start it again whenever it dies, as long as anything else can answer meanwhile."""
        while True:
            assert replica.child is not None
            ending = await replica.child.ended()
            replica.is_serving = False
            if not self._can_answer():
                raise ChildDied(ending)
            await self._restart(replica, ending)
            await announce(self._ready())

    async def _restart(self, replica: _Replica, ending: Ending) -> None:
        while not replica.is_serving:
            delay = replica.backoff.delay_after(asyncio.get_running_loop().time() - replica.started_at)
            self._screen.say(f"{ending.describe()}", style="red")
            self._screen.say(f"{replica.name} is started again in {delay:.1f} s; the others go on", style="yellow")
            await asyncio.sleep(delay)
            try:
                await self._start(replica)
            except ChildDied as died:
                ending = died.ending
            except StartTimeout:
                assert replica.child is not None
                replica.child.kill()
                ending = await replica.child.ended()
        self._screen.say(f"{replica.name} serves again at {replica.address}", style="green")

    def _replica_addresses(self) -> tuple[str, ...]:
        return (*(replica.address for replica in self._replicas), *self._plan.replica_addresses)

    @property
    def _join_timeout(self) -> float:
        """A business process that loads no model has little to do before it serves."""
        return self._plan.start_timeout if self._plan.has_local_engine else JOIN_SECONDS

    def _can_answer(self) -> bool:
        joined = bool(self._plan.replica_addresses)
        return self._plan.has_local_engine or joined or any(replica.is_serving for replica in self._replicas)

    def _ready(self) -> Ready:
        assert self._business is not None
        assert self._business_ready is not None
        own = (self._business_ready.inference,) if self._business_ready.inference else ()
        return Ready(
            grpc=self._business_ready.grpc,
            http=self._business_ready.http,
            inference=(*(replica.address for replica in self._replicas), *own, *self._plan.replica_addresses),
            business_pid=self._business.pid,
            inference_pids=tuple(replica.child.pid for replica in self._replicas if replica.child),
            api_key=self._plan.keys.shown,
            metrics=(
                *self._business_ready.metrics,
                *(replica.metrics for replica in self._replicas if replica.metrics),
            ),
        )


async def _all(*works: Awaitable[None]) -> None:
    """Together; the first fault ends the others and is raised as itself."""

    async def wait(work: Awaitable[None]) -> None:
        await work

    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(wait(work))
    except BaseExceptionGroup as faults:
        raise faults.exceptions[0] from None
