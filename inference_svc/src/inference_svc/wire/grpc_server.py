"""The gRPC server of the inference contract: what it serves beside the contract, and how connections behave."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import grpc
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from inference import open_inference_pb2
from inference.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from seam.inference.v1 import inference_service_pb2, model_service_pb2
from seam.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from seam.inference.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server

from inference_svc.wire.health import Health
from inference_svc.wire.observed_calls import Observed, ObservedCalls
from inference_svc.wire.open_inference.servicer import OpenInferenceServicer
from inference_svc.wire.peers import AllowedPeers
from inference_svc.wire.reading import Reading
from inference_svc.wire.reflection import add_reflection
from inference_svc.wire.servicers import InferenceServicer, ModelServicer
from inference_svc.wire.session_service import SessionService

CONTRACT_FILES = (inference_service_pb2.DESCRIPTOR, model_service_pb2.DESCRIPTOR, open_inference_pb2.DESCRIPTOR)
MAX_CALLS = 8_192  # at once, sessions and calls that have not sent their message yet too; more are refused unread
LINGER = 0.1  # seconds that connections stay open when the last session has ended
MIN_PING_INTERVAL_MS = 900  # clients may ping every second
SERVICES = tuple(service.full_name for file in CONTRACT_FILES for service in file.services_by_name.values())


def grpc_server(
    inference: InferenceServicer,
    models: ModelServicer,
    open_inference: OpenInferenceServicer,
    health: Health,
    max_message_bytes: int,
    peers: AllowedPeers | None = None,
    observed: Observed | None = None,
) -> grpc.aio.Server:
    """Not started, bound to nothing yet."""
    interceptors: list[grpc.aio.ServerInterceptor] = []
    if observed is not None:
        interceptors.append(ObservedCalls(frozenset(SERVICES), observed))
    if peers is not None:
        interceptors.append(peers)
    interceptors.append(Reading(frozenset(SERVICES)))
    server = grpc.aio.server(
        options=_options(max_message_bytes), interceptors=interceptors, maximum_concurrent_rpcs=MAX_CALLS
    )
    add_InferenceServiceServicer_to_server(inference, server)
    add_ModelServiceServicer_to_server(models, server)
    add_GRPCInferenceServiceServicer_to_server(open_inference, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    channelz.add_channelz_servicer(server)
    add_reflection(server, (*CONTRACT_FILES, health_pb2.DESCRIPTOR, channelz_pb2.DESCRIPTOR))
    return server


def bind(
    server: grpc.aio.Server, addresses: Sequence[str], credentials: grpc.ServerCredentials | None = None
) -> tuple[str, ...]:
    """The addresses as bound, port 0 replaced by the port that was free. Unix sockets are guarded by their file's
    permissions, everything else by the credentials where there are some. Raises OSError where one is taken."""
    bound = []
    for address in addresses:
        is_unix = address.startswith("unix:")
        try:
            if credentials is None or is_unix:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        bound.append(address if is_unix else f"{address.rpartition(':')[0]}:{port}")
    return tuple(bound)


async def stop_gently(server: grpc.aio.Server, sessions: SessionService, grace: float) -> None:
    """When every session was told to end. All that is in progress has `grace` seconds. No connection is closed before
    its client could read why its session ended: one that writes to a closed connection reads no more of it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + grace
    with suppress(TimeoutError):
        async with asyncio.timeout_at(end):
            await sessions.ended()
            await asyncio.sleep(LINGER)
    await server.stop(max(0.0, end - loop.time()))


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a rival
        ("grpc.enable_channelz", 1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Calls or none (the library's own bound is five minutes).
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_permit_without_calls", 1),
        # A client that vanished without a word is let go after half a minute.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]
