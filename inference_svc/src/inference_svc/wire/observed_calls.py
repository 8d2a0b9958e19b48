"""How long each call of our services took, and the code that it ended with."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import grpc

from inference_svc.wire.handlers import Behaviour, behaviour_of, with_behaviour

Observed = Callable[[str, str, float], None]
"""Called with "package.Service/Method", the name of the code and seconds when a call ends."""
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class ObservedCalls(grpc.aio.ServerInterceptor):
    """Calls of services named in `services`; the tools' own (health, reflection, channelz) pass unseen."""

    def __init__(self, services: frozenset[str], told: Observed) -> None:
        self._services = services
        self._told = told

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method.removeprefix("/")
        if handler is None or method.partition("/")[0] not in self._services:
            return handler
        return with_behaviour(handler, self._observed(method, behaviour_of(handler)))

    def _observed(self, method: str, behaviour: Behaviour) -> Behaviour:
        async def answer(request: Any, call: Any) -> Any:
            began = monotonic()
            cancelled = False
            try:
                return await behaviour(request, call)
            except asyncio.CancelledError:
                cancelled = True
                raise
            finally:
                code = "CANCELLED" if cancelled else _name_of(call.code())
                self._told(method, code, monotonic() - began)

        return answer


def _name_of(code: object) -> str:
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODES.get(code, "UNKNOWN") if isinstance(code, int) else "OK"
