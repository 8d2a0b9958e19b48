"""A replica behind gRPC: TCP ("host:port") or a Unix socket ("unix:/path")."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import grpc
import grpc.aio
from seam.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse

from business_svc.link.duplex import DuplexLost
from business_svc.link.tls import PeerRefused, Proof, TlsFiles

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

# A live session seldom goes half a second without data, so pings matter only while it is being torn down or cut, or
# where heartbeats are set far apart. Seam's inference server allows one a second; others must allow them this often
# (grpc.http2.min_ping_interval_without_data_ms of at most 10 s), or they hang up.
KEEPALIVE_TIME = 10.0
KEEPALIVE_TIMEOUT = 5.0
_OVER = "the call to the replica is over"


class GrpcConnector:
    """Plaintext unless `tls` is given; a Unix socket needs none. `options` are gRPC channel arguments that go
    before the ones made here."""

    def __init__(
        self,
        target: str,
        *,
        tls: TlsFiles | None = None,
        hop: float = 0.0005,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._target = target
        self._tls = tls
        self._hop = hop
        self._options = options

    @property
    def address(self) -> str:
        return self._target

    @property
    def hop(self) -> float:
        return self._hop

    async def connect(self) -> "GrpcDuplex":
        if self._tls is None or self._target.startswith("unix:"):
            return GrpcDuplex(grpc.aio.insecure_channel(self._target, options=self._channel_options()))
        proof = await self._tls.prove(self._target)
        try:
            credentials = await asyncio.to_thread(proof.credentials)
        except OSError as error:
            raise DuplexLost(f"a TLS file of {self._target} cannot be read: {error}") from error
        return GrpcDuplex(grpc.aio.secure_channel(self._target, credentials, options=self._channel_options(proof)))

    def _channel_options(self, proof: Proof | None = None) -> list[tuple[str, Any]]:
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", int(KEEPALIVE_TIME * 1000)),
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.enable_retries", 0),
            # A connection of its own: the pool decides when to try again, not a backoff shared between channels.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if proof is not None:
            options.append(("grpc.ssl_target_name_override", proof.name))
        return [*self._options, *options]  # of two of one name, gRPC takes the first


class GrpcDuplex:
    """Owns its channel and the one call on it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._call: grpc.aio.StreamStreamCall[SessionRequest, SessionResponse] = InferenceServiceStub(channel).Session()
        # Not `read`: after a write that failed it gives up what lies unread, and why the replica ended the call.
        self._responses = cast("AsyncGenerator[SessionResponse | None, None]", aiter(self._call))

    async def send(self, frame: SessionRequest) -> None:
        if self._call.done():
            raise DuplexLost(_OVER)
        try:
            await self._call.wait_for_connection()
            await _write(self._call, frame)
        except grpc.aio.AioRpcError as error:
            raise _lost(error) from error
        except (grpc.aio.InternalError, asyncio.InvalidStateError) as error:  # the reader learns why
            raise DuplexLost(_OVER) from error

    async def receive(self) -> SessionResponse | None:
        try:
            response = await anext(self._responses)
        except StopAsyncIteration:
            return None
        except grpc.aio.AioRpcError as error:
            raise _lost(error) from error
        if response is None:  # so grpc.aio tells of bytes that it cannot read, beside a line in the log
            raise DuplexLost("the replica sent what is no message of the contract")
        return response

    async def aclose(self) -> None:
        self._call.cancel()
        await self._responses.aclose()
        await self._channel.close()


async def _write(call: Any, frame: SessionRequest) -> None:
    """A write to a call that the server has ended fails, and grpc.aio's own then puts an INTERNAL of its making in the
    place of the server's status (grpc/grpc#36066): why would be lost, and `cancel` would leave core's call as it is,
    with a task and a connection, for there seems to be nothing to cancel. What is reached for here is private (1.85);
    without it, only that. Raises AioRpcError, InternalError, InvalidStateError."""
    beneath = getattr(getattr(call, "_cython_call", None), "send_serialized_message", None)
    if beneath is None:
        await call.write(frame)
    else:
        try:
            await beneath(frame.SerializeToString())
        except asyncio.CancelledError:
            call.cancel()  # no other write may follow one that was given up
            raise


def _lost(error: grpc.aio.AioRpcError) -> DuplexLost:
    kind = PeerRefused if error.code() is grpc.StatusCode.PERMISSION_DENIED else DuplexLost
    return kind(f"{error.code().name}: {error.details()}")
