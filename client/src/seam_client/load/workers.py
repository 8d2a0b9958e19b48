"""The same schedule from one process or several: each sends its share of the requests, all by one clock."""

import asyncio
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from seam_client.connection import connection
from seam_client.load.schedule import Shot, split
from seam_client.load.sending import Asked, GrpcSender, Sender
from seam_client.load.shooting import Rules, Shooting, shoot

_START_SECONDS = 3.0  # for processes to come up, before the schedule begins


@dataclass(frozen=True, slots=True)
class Aim:
    """Where requests go: `http` is a base address, empty for gRPC; `reach` are the arguments of `connection()`."""

    target: str
    api_key: str | None = None
    http: str = ""
    reach: Mapping[str, Any] = field(default_factory=dict)
    asked: Asked = field(default_factory=lambda: Asked({}))

    def sender(self) -> Sender:
        """In a running event loop. Raises what `connection()` does, ModuleNotFoundError without aiohttp."""
        if self.http:
            from seam_client.load.http_sending import HttpSender

            return HttpSender(self.http, self.api_key, self.asked)
        return GrpcSender(connection(self.target, api_key=self.api_key, timeout=None, **self.reach), self.asked)


def run(aim: Aim, shots: Sequence[Shot], rules: Rules, workers: int = 1) -> list[Shooting]:
    """One shooting for each worker; this process is the only one where there is one."""
    if workers == 1:
        return [asyncio.run(_shoot(aim, list(enumerate(shots)), rules, None))]
    start = time.time() + _START_SECONDS
    share = replace(rules, max_in_flight=max(1, rules.max_in_flight // workers))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(_in_process, aim, part, share, start) for part in split(shots, workers)]
        return [each.result() for each in running]


def _in_process(aim: Aim, shots: Sequence[tuple[int, Shot]], rules: Rules, start: float) -> Shooting:
    return asyncio.run(_shoot(aim, shots, rules, start))


async def _shoot(aim: Aim, shots: Sequence[tuple[int, Shot]], rules: Rules, start: float | None) -> Shooting:
    sender = aim.sender()
    try:
        return await shoot(sender, shots, rules, start=start)
    finally:
        await sender.close()
