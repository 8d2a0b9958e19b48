"""Bytes that are no message of the contract are their sender's fault, and told so. Left to gRPC they would be one of
ours, with a stack in the log for whoever sends them."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from inference_svc.errors import MalformedFrame
from inference_svc.wire.handlers import Behaviour, behaviour_of, with_behaviour
from inference_svc.wire.telling import telling

Message = TypeVar("Message")


async def readable(arriving: AsyncGenerator[Message, None]) -> AsyncGenerator[Message, None]:
    """The messages of a stream. Raises MalformedFrame."""
    try:
        async for message in arriving:
            yield message
    except DecodeError as error:
        raise MalformedFrame("a frame is no message of this contract") from error


class _Unreadable:
    """Stands for a message that cannot be parsed."""


_UNREADABLE = _Unreadable()


class Reading(grpc.aio.ServerInterceptor):
    """Of calls of the services named in `services` that take one message; those that take many use `readable`."""

    def __init__(self, services: frozenset[str]) -> None:
        self._services = services

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        service = handler_call_details.method.removeprefix("/").partition("/")[0]
        if handler is None or handler.request_streaming or service not in self._services:
            return handler
        return with_behaviour(handler, _telling(behaviour_of(handler)), _reading(handler.request_deserializer))


def _reading(parse: Any) -> Callable[[bytes], Any]:
    def read(given: bytes) -> Any:
        try:
            return parse(given)
        except DecodeError:
            return _UNREADABLE

    return read


def _telling(behaviour: Behaviour) -> Behaviour:
    async def answer(request: Any, call: Any) -> Any:
        if request is _UNREADABLE:
            async with telling(call):
                raise MalformedFrame("the request is no message of this contract")
        return await behaviour(request, call)

    return answer
