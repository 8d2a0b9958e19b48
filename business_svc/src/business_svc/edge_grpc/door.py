"""What every call passes: the key is checked on the way in, errors are told on the way out."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import Message

from business_svc.domain.access import KeyRing, presented_key
from business_svc.edge_grpc.errors_wire import CODES, abort
from business_svc.edge_grpc.methods import METHODS
from business_svc.errors import Reason, SeamError
from business_svc.observing import UNOBSERVED, Arrival, CallWatch, Edge, Observer
from business_svc.usecases.calling import Call

ServicerContext = grpc.aio.ServicerContext[Any, Any]


class Door:
    """Knows the keys and the largest request, and who is inside."""

    def __init__(self, keys: KeyRing, max_request_bytes: int, observer: Observer = UNOBSERVED) -> None:
        self._keys = keys
        self._observer = observer
        self._max_request_bytes = max_request_bytes
        self._inside: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._hung_up = False
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def call(self, request: Message, context: ServicerContext) -> AsyncGenerator[Call, None]:
        """Whatever fails inside fails this call, and only this call, by the table of errors."""
        task = asyncio.current_task()
        assert task is not None
        self._inside.add(task)
        self._empty.clear()
        metadata = _metadata(context)
        watch = self._observer.call(_arrival(request, metadata))
        try:
            yield self._enter(request, context, metadata, watch)
            watch.ended("OK")
        except SeamError as error:
            await _abort(context, error, watch)
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            if not self._hung_up:
                raise
            task.uncancel()
            await _abort(context, SeamError(Reason.DRAINING, "the server stops; the answer was not finished"), watch)
        except Exception:
            logging.getLogger(__name__).exception("a call of %s failed by a fault of the server", context.peer())
            await _abort(context, SeamError(Reason.INTERNAL_FAULT, "a fault of the server; its log has more"), watch)
        finally:
            watch.ended("CANCELLED")
            self._inside.discard(task)
            if not self._inside:
                self._empty.set()

    def close(self) -> None:
        """New calls are refused with DRAINING."""
        self._closed = True

    async def empty(self) -> None:
        """Returns when nobody is inside."""
        await self._empty.wait()

    def hang_up(self) -> None:
        """Calls still inside end with DRAINING."""
        self._hung_up = True
        for task in self._inside:
            task.cancel()

    def _enter(self, request: Message, context: ServicerContext, metadata: dict[str, str], watch: CallWatch) -> Call:
        """Raises DRAINING, API_KEY_MISSING, API_KEY_INVALID, MESSAGE_TOO_LARGE."""
        if self._closed:
            raise SeamError(Reason.DRAINING, "the server stops and takes nothing new")
        caller = self._keys.identify(presented_key(metadata.get("authorization"), metadata.get("x-api-key")))
        watch.known(caller)
        size = request.ByteSize()
        if size > self._max_request_bytes:
            limit = f"the request has {size} bytes, the limit is {self._max_request_bytes}"
            raise SeamError(Reason.MESSAGE_TOO_LARGE, limit)
        return Call(
            caller,
            timeout=context.time_remaining(),
            traceparent=watch.traceparent,
            tracestate=watch.tracestate,
            watch=watch,
        )


def _arrival(request: Message, metadata: dict[str, str]) -> Arrival:
    method = METHODS.get(request.DESCRIPTOR.full_name, "")
    return Arrival(Edge.GRPC, method, metadata.get("traceparent", ""), metadata.get("tracestate", ""))


async def _abort(context: ServicerContext, error: SeamError, watch: CallWatch) -> None:
    watch.failed(error)
    watch.ended(CODES[error.reason].name)
    await abort(context, error)


def _metadata(context: ServicerContext) -> dict[str, str]:
    """The first value of each key; binary ones left out."""
    found: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            found.setdefault(key, value)
    return found
