"""Only peers with an allowed identity are answered, whatever they call. The handshake has proved by then that the
certificate is theirs and of a known authority; this decides whether it is one of those that were named."""

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc

from inference_svc.errors import PeerNotAllowed
from inference_svc.wire.status_wire import status_of

ANYONE = "*"
_SECURITY = "transport_security_type"
_NAMES = "x509_subject_alternative_name"
_MOST_REMEMBERED = 256  # refused peers that are not told of again in the log
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_log = logging.getLogger(__name__)


class AllowedPeers(grpc.aio.ServerInterceptor):
    """`identities` as subject alternative names: a URI, a DNS name, an IP address; "*" is everyone the authority knows.
    A peer on a Unix socket proves nothing, and is let in as whoever may open the file."""

    def __init__(self, identities: Sequence[str]) -> None:
        self._identities = frozenset(identities)
        self._refused: set[tuple[str, ...]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        return _guarded(await continuation(handler_call_details), self._refusal)

    def _refusal(self, call: Any) -> PeerNotAllowed | None:
        proved: Mapping[str, Sequence[bytes]] = call.auth_context()
        if ANYONE in self._identities or list(proved.get(_SECURITY, ())) != [b"ssl"]:
            return None
        names = tuple(name.decode("utf-8", "replace") for name in proved.get(_NAMES, ()))
        if not self._identities.isdisjoint(names):
            return None
        shown = ", ".join(names) or "a certificate without any"
        if names not in self._refused and len(self._refused) < _MOST_REMEMBERED:
            self._refused.add(names)
            _log.warning("refused %s: its identity (%s) is not in SEAM_LINK_CLIENTS", call.peer(), shown)
        return PeerNotAllowed(f"this replica does not take calls from {shown}: see its SEAM_LINK_CLIENTS")


def _guarded(handler: Any, refusal: Callable[[Any], PeerNotAllowed | None]) -> Any:
    """The same handler behind the check, of the same kind: coroutine, asynchronous generator, or plain function."""
    if handler is None:
        return None
    kind = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
    behaviour = getattr(handler, kind)

    async def answer(request: Any, call: Any) -> Any:
        if (refused := refusal(call)) is not None:
            await call.abort(*_told(refused))
        return await behaviour(request, call)

    async def answers(request: Any, call: Any) -> Any:
        if (refused := refusal(call)) is not None:
            await call.abort(*_told(refused))
        async for response in behaviour(request, call):
            yield response

    def answer_plainly(request: Any, call: Any) -> Any:
        if (refused := refusal(call)) is not None:
            code, words, trailers = _told(refused)
            call.set_trailing_metadata(trailers)
            call.abort(code, words)
        return behaviour(request, call)

    if inspect.isasyncgenfunction(behaviour):
        chosen: Any = answers
    else:
        chosen = answer if inspect.iscoroutinefunction(behaviour) else answer_plainly
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(chosen, handler.request_deserializer, handler.response_serializer)


def _told(refused: PeerNotAllowed) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    status = status_of(refused)
    return _CODES[status.code], status.message, (("grpc-status-details-bin", status.SerializeToString()),)
