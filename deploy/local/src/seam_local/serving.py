"""From a plan to an exit code: serve until told to stop, then stop everything."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

from seam_client import SeamError

from seam_local.faults import CannotServe
from seam_local.plan import Plan, Topology
from seam_local.ready import Ready, forget_ready, write_ready
from seam_local.screen import Screen
from seam_local.stopping import Stop
from seam_local.supervisor import Announce, Supervisor

Work = Callable[[Ready], Awaitable[None]]


class Roof(Protocol):
    """Whatever holds the services: one process, or a supervisor of several."""

    async def run(self, announce: Announce) -> None:
        """Serve until cancelled. Raises CannotServe."""
        ...

    async def stop(self) -> None:
        """Drain and stop what still runs."""
        ...

    def kill(self) -> None:
        """Stop at once."""
        ...


async def serve(plan: Plan, environment: Mapping[str, str], screen: Screen, work: Work | None = None) -> int:
    """Serve until a signal, or until `work` is done when there is some. Returns the exit code: 0 when it ended as
    asked, 1 when what it needs died or the work failed, 128 and the signal's number when it was told to hurry. Raises
    BadPlan."""
    roof = _roof(plan, environment, screen)
    _forget(plan)

    def stop_in_order() -> None:
        _forget(plan)
        screen.say("stopping: what is being answered is finished first; once more to stop at once")

    stop = Stop(stop_in_order, roof.kill)
    stop.listen()
    first_ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()

    async def announce(ready: Ready) -> None:
        if stop.asked.is_set():
            return
        if plan.ready_file:
            write_ready(plan.ready_file, ready.to_json())
        if not first_ready.done():
            _show(ready, plan, screen)
            first_ready.set_result(ready)

    async def be_asked_for() -> None:
        await (stop.asked.wait() if work is None else work(await first_ready))

    try:
        code = await _first_of(roof.run(announce), be_asked_for(), stop.asked.wait(), screen=screen)
    finally:
        _forget(plan)
        await roof.stop()
    return 128 + stop.hurried_by if stop.hurried_by else code


def _roof(plan: Plan, environment: Mapping[str, str], screen: Screen) -> Roof:
    if plan.topology is not Topology.MONOLITH:
        return Supervisor(plan, environment, screen)
    from seam_local.monolith import Monolith  # brings torch, which a supervisor of processes does not need

    return Monolith(plan, environment, screen)


async def _first_of(*works: Awaitable[object], screen: Screen) -> int:
    """0 when the first to end ended well; 1, with a message, when it could not."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except (CannotServe, SeamError) as fault:
        screen.say(str(fault), style="bold red")
        return 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            with suppress(asyncio.CancelledError, CannotServe, SeamError):
                task.result()
    return 0


def _forget(plan: Plan) -> None:
    if plan.ready_file:
        forget_ready(plan.ready_file)


def _show(ready: Ready, plan: Plan, screen: Screen) -> None:
    screen.serving(
        {
            "topology": plan.topology.value,
            "gRPC": ready.grpc,
            "HTTP": f"http://{ready.http}",
            "inference": " ".join(ready.inference),
            "metrics": " ".join(f"http://{address}/metrics" for address in ready.metrics) or "none",
            "API key": ready.api_key,
        }
    )
