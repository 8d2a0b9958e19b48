"""What tools ask: health, reflection, channelz."""

import asyncio
from dataclasses import replace

import grpc
import httpx
import pytest
from business_svc.server import Running
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from support.fake_inference import CHAT, EMBED, FakeInference

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ("", "liveness", *(f"seam.business.v1.{name}Service" for name in ("Chat", "Predict", "Embedding", "Score")))


async def states(channel: grpc.aio.Channel) -> dict[str, int]:
    stub = health_pb2_grpc.HealthStub(channel)
    return {name: (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in NAMES}


async def test_all_serve_while_every_model_has_a_replica(channel: grpc.aio.Channel, http: httpx.AsyncClient) -> None:
    assert set((await states(channel)).values()) == {SERVING}
    assert (await http.get("/readyz")).status_code == 200


async def test_a_model_without_a_replica_takes_its_services_down_and_leaves_the_process_alive(
    channel: grpc.aio.Channel, http: httpx.AsyncClient, inference: FakeInference
) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watch.read()).status == SERVING
    inference.served = [replace(CHAT, ready=False), EMBED]
    assert (await asyncio.wait_for(watch.read(), 10)).status == NOT_SERVING
    watch.cancel()
    await asyncio.gather(watch.code(), return_exceptions=True)

    found = await states(channel)
    assert found == {
        "": NOT_SERVING,
        "liveness": SERVING,
        "seam.business.v1.ChatService": NOT_SERVING,
        "seam.business.v1.PredictService": NOT_SERVING,
        "seam.business.v1.EmbeddingService": SERVING,
        "seam.business.v1.ScoreService": NOT_SERVING,
    }
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.get("/readyz")).status_code == 503


async def test_a_drain_takes_readiness_down_while_answers_end(
    running: Running, channel: grpc.aio.Channel, inference: FakeInference
) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service="seam.business.v1.ChatService"))
    assert (await watch.read()).status == SERVING
    draining = asyncio.create_task(running.drain(20))
    assert (await asyncio.wait_for(watch.read(), 10)).status == NOT_SERVING
    assert not running.ready
    await asyncio.wait_for(draining, 10)  # an open watch does not hold it up


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes_the_services(channel: grpc.aio.Channel, version: str) -> None:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="seam.business.v1.PredictService"),
    ]
    listed, described = [answer async for answer in call(iter(asked))]
    names = {service.name for service in listed.list_services_response.service}
    assert {"seam.business.v1.ChatService", "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


async def test_channelz_shows_the_server(channel: grpc.aio.Channel) -> None:
    stub = channelz_pb2_grpc.ChannelzStub(channel)
    found = await stub.GetServers(channelz_pb2.GetServersRequest(start_server_id=0))
    assert len(found.server) >= 1
