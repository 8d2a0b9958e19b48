"""What operators and tools ask of a running server."""

import asyncio
import threading

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from inference_svc.errors import ModelLoadError
from inference_svc.server import serve
from inference_svc.settings import Settings
from inference_svc.wire.grpc_server import SERVICES
from seam.inference.v1 import model_service_pb2 as pb
from support.echo import echo_model
from support.session_client import generation

from .conftest import running

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HeldLoad:
    """Loads echo models once it is let go."""

    def __init__(self):
        self.go = threading.Event()

    def __call__(self, spec, progress):
        assert self.go.wait(30)
        return echo_model(spec.name, spec.task)


async def health_of(channel, service):
    return (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_health_is_serving_once_every_model_is_warm_and_not_while_leaving():
    load = HeldLoad()
    async with running(load=load, ready=False) as served:
        for service in ("", *SERVICES):
            assert await health_of(served.channel, service) == NOT_SERVING
        assert await health_of(served.channel, "liveness") == SERVING
        load.go.set()
        await served.server.ready()
        for service in ("", *SERVICES, "liveness"):
            assert await health_of(served.channel, service) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await health_of(served.channel, "nobody")
        assert failed.value.code() == grpc.StatusCode.NOT_FOUND
        await served.server.leave()
        assert await health_of(served.channel, "") == NOT_SERVING
        assert await health_of(served.channel, "liveness") == SERVING


async def test_health_is_answered_while_the_model_thread_is_busy():
    async with running() as served:
        served.gate.shut()
        session = served.session()
        session.send(submits=[generation(1, tokens=5)])
        await asyncio.to_thread(served.gate.wait_until_blocked)
        for service in ("", *SERVICES, "liveness"):
            assert await health_of(served.channel, service) == SERVING
        served.gate.open()
        await session.ended(1)


async def test_a_server_that_leaves_while_it_loads_never_serves():
    load = HeldLoad()
    async with running(load=load, ready=False) as served:
        await served.server.leave()
        load.go.set()
        await served.server.ready()
        assert await health_of(served.channel, "") == NOT_SERVING


async def test_a_watcher_of_health_sees_the_change():
    load = HeldLoad()
    async with running(load=load, ready=False) as served:
        watch = health_pb2_grpc.HealthStub(served.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        load.go.set()
        assert (await watch.read()).status == SERVING
        watch.cancel()


async def test_health_is_answered_while_a_step_holds_the_model_thread(served):
    served.gate.shut()
    client = served.session()
    client.send(submits=[generation(1)])
    await asyncio.to_thread(served.gate.wait_until_blocked)
    assert await health_of(served.channel, "") == SERVING
    served.gate.open()
    await client.ended(1)


async def test_models_are_listed_in_pages_and_one_by_one(served):
    everything = (await served.models.ListModels(pb.ListModelsRequest())).models
    assert [model.name for model in everything] == ["chat", "embed", "score"]
    assert {model.state for model in everything} == {pb.MODEL_STATE_READY}
    names, token = [], ""
    while True:
        page = await served.models.ListModels(pb.ListModelsRequest(page_size=1, page_token=token))
        names += [model.name for model in page.models]
        token = page.next_page_token
        if not token:
            break
    assert names == ["chat", "embed", "score"]
    assert (await served.models.GetModel(pb.GetModelRequest(name="embed"))).model == everything[1]
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await served.models.ListModels(pb.ListModelsRequest(page_token="no page"))
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_models_tell_that_they_load_and_refuse_work_until_then():
    load = HeldLoad()
    async with running(load=load, ready=False) as served:
        models = (await served.models.ListModels(pb.ListModelsRequest())).models
        assert {model.state for model in models} == {pb.MODEL_STATE_LOADING}
        client = served.session()
        error = await client.closed()
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        load.go.set()
        await served.server.ready()
        client = served.session()
        client.send(submits=[generation(1)])
        await client.ended(1)


async def test_a_model_that_cannot_be_loaded_is_told_by_name_and_health_never_serves():
    def load(spec, progress):
        if spec.name == "embed":
            raise ModelLoadError("model embed (x) cannot be served: there is no such folder")
        return echo_model(spec.name, spec.task)

    async with running(load=load, ready=False) as served:
        with pytest.raises(ModelLoadError, match="model embed"):
            await served.server.ready()
        failed = (await served.models.GetModel(pb.GetModelRequest(name="embed"))).model
        assert failed.state == pb.MODEL_STATE_FAILED
        assert "no such folder" in failed.notice
        assert await health_of(served.channel, "") == NOT_SERVING


async def test_an_address_that_is_taken_is_an_error(served):
    with pytest.raises(OSError, match=served.server.address):
        async with serve(Settings(listen=served.server.address), load=lambda spec, _: echo_model(spec.name, spec.task)):
            pass


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_tells_every_service_and_its_files(served, version):
    method = served.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    names = [service.name async for answer in method(iter(asked)) for service in answer.list_services_response.service]
    assert set(names) == {
        *SERVICES,
        "grpc.health.v1.Health",
        "grpc.channelz.v1.Channelz",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    answers = [answer async for answer in method(iter(asked))]
    assert all(answer.file_descriptor_response.file_descriptor_proto for answer in answers)


async def test_channelz_tells_of_the_server_and_its_connections(served):
    stub = channelz_pb2_grpc.ChannelzStub(served.channel)
    servers = (await stub.GetServers(channelz_pb2.GetServersRequest())).server
    of_each = [channelz_pb2.GetServerSocketsRequest(server_id=server.ref.server_id) for server in servers]
    assert any([(await stub.GetServerSockets(of_one)).socket_ref for of_one in of_each])


async def test_a_client_that_pings_often_is_not_hung_up_on():
    """The library's own limit is one ping in five minutes without data, after which it answers GOAWAY."""
    often = [
        ("grpc.keepalive_time_ms", 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with running(options=often, heartbeat_seconds=60) as served:
        client = served.session()
        client.send(submits=[generation(1, credits=0)])
        await client.until(lambda: client.kinds(1) == ["accepted"])
        await asyncio.sleep(5.5)  # five pings; there is no sooner sign of a hang-up
        assert client.end is None
        client.send(grants=[{"request_id": 1, "credits": 100}])
        await client.ended(1)
        assert client.last(1) == "finished"


async def test_a_server_without_an_address_serves_in_its_own_process():
    async with serve(Settings(listen=""), load=lambda spec, _: echo_model(spec.name, spec.task)) as server:
        await server.ready()
        assert server.address == ""
        from support.session_client import SessionClient

        client = SessionClient(server.session_service.session)
        client.hello()
        client.send(submits=[generation(1)])
        await client.ended(1)
        assert client.last(1) == "finished"
        await client.lose()
