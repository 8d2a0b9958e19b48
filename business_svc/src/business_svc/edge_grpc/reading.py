"""Bytes that are no message of the contract are told so to their caller. Left to gRPC they would be a fault of the
server's, UNKNOWN with the parser's own words, and a stack in the log for whoever sends them."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from business_svc.edge_grpc.errors_wire import abort
from business_svc.errors import Reason, SeamError

Behaviour = Callable[[Any, Any], Awaitable[Any]]

_OURS = "/seam."


class _Unreadable:
    """Stands for a request that cannot be parsed."""


_UNREADABLE = _Unreadable()


class Reading(grpc.aio.ServerInterceptor):
    """Of our own services, whose methods are coroutines all, those that stream too, and take one message each. What was
    made of a handler is kept: to make it anew at every call was 2 % of an empty one."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}  # by method

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        known = self._known.get(details.method)
        if known is not None:
            return known
        handler = await continuation(details)
        if handler is None or not details.method.startswith(_OURS):
            return handler
        name = "unary_stream" if handler.response_streaming else "unary_unary"
        make: Any = getattr(grpc, f"{name}_rpc_method_handler")
        read = _reading(handler.request_deserializer)
        known = self._known[details.method] = make(_telling(getattr(handler, name)), read, handler.response_serializer)
        return known


def _reading(parse: Any) -> Callable[[bytes], Any]:
    def read(given: bytes) -> Any:
        try:
            return parse(given)
        except DecodeError:
            return _UNREADABLE

    return read


def _telling(behaviour: Behaviour) -> Behaviour:
    async def answer(request: Any, context: Any) -> Any:
        if request is _UNREADABLE:
            await abort(context, SeamError(Reason.INVALID_FIELD, "the request's bytes are no message of the contract"))
        return await behaviour(request, context)

    return answer
