"""gRPC's method handlers, made anew around what answers a call."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

Behaviour = Callable[[Any, Any], Awaitable[Any]]
"""Our methods are coroutines all, those that stream too: they write."""


def behaviour_of(handler: Any) -> Behaviour:
    behaviour: Behaviour = getattr(handler, _kind(handler))
    return behaviour


def with_behaviour(handler: Any, behaviour: Behaviour, read: Callable[[bytes], Any] | None = None) -> Any:
    """The same handler, but for what answers and, where it is given, how a message is read."""
    make: Any = getattr(grpc, f"{_kind(handler)}_rpc_method_handler")
    return make(behaviour, read or handler.request_deserializer, handler.response_serializer)


def _kind(handler: Any) -> str:
    asked = "stream" if handler.request_streaming else "unary"
    answered = "stream" if handler.response_streaming else "unary"
    return f"{asked}_{answered}"
