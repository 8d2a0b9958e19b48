"""The standard health service: alive as soon as it answers, serving once every model is warm."""

from collections.abc import Sequence

from grpc_health.v1 import health, health_pb2

LIVENESS = "liveness"  # the service name of a probe that asks only whether the process answers


class Health:
    """`services` and "" are NOT_SERVING until `serving()`, and again for good from `leaving()` on."""

    def __init__(self, services: Sequence[str]) -> None:
        self.servicer = health.aio.HealthServicer()
        self._services = ("", *services)
        self._left = False

    async def starting(self) -> None:
        await self.servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._set_all(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def serving(self) -> None:
        if not self._left:
            await self._set_all(health_pb2.HealthCheckResponse.SERVING)

    async def leaving(self) -> None:
        self._left = True
        await self._set_all(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def _set_all(self, status: int) -> None:
        for service in self._services:
            await self.servicer.set(service, status)
