"""What every call passes: the key is checked on the way in, errors are told on the way out."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message

from business_svc.domain.access import KeyRing, presented_key
from business_svc.edge_grpc.errors_wire import CODES, STATUS_DETAILS_KEY, status_of
from business_svc.errors import Reason, SeamError
from business_svc.usecases.calling import Call

ServicerContext = grpc.aio.ServicerContext[Any, Any]


class Door:
    """Knows the keys and the largest request."""

    def __init__(self, keys: KeyRing, max_request_bytes: int) -> None:
        self._keys = keys
        self._max_request_bytes = max_request_bytes

    def enter(self, request: Message, context: ServicerContext) -> Call:
        """Raises API_KEY_MISSING, API_KEY_INVALID, MESSAGE_TOO_LARGE."""
        metadata = _metadata(context)
        caller = self._keys.identify(presented_key(metadata.get("authorization"), metadata.get("x-api-key")))
        size = request.ByteSize()
        if size > self._max_request_bytes:
            limit = f"the request has {size} bytes, the limit is {self._max_request_bytes}"
            raise SeamError(Reason.MESSAGE_TOO_LARGE, limit)
        return Call(
            caller,
            timeout=context.time_remaining(),
            traceparent=metadata.get("traceparent", ""),
            tracestate=metadata.get("tracestate", ""),
        )


@asynccontextmanager
async def telling_errors(context: ServicerContext) -> AsyncGenerator[None, None]:
    """Whatever fails inside fails this call, and only this call."""
    try:
        yield
    except SeamError as error:
        await _abort(context, error)
    except grpc.aio.AbortError:
        raise
    except Exception:
        structlog.get_logger("business_svc").exception("a call failed by a fault of the server", peer=context.peer())
        await _abort(context, SeamError(Reason.INTERNAL_FAULT, "a fault of the server; its log has more"))


async def _abort(context: ServicerContext, error: SeamError) -> None:
    status = status_of(error)
    details = ((STATUS_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(CODES[error.reason], status.message, details)


def _metadata(context: ServicerContext) -> dict[str, str]:
    """The first value of each key; binary ones left out."""
    found: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            found.setdefault(key, value)
    return found
