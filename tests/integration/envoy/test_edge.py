"""What callers get through Envoy, in every language that the edge speaks."""

import json
import socket
import subprocess

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2
from openai import OpenAI
from seam.business.v1 import predict_service_pb2, predict_service_pb2_grpc
from seam_client import InvalidRequest, NotAuthenticated, Seam
from support.edge import HEADERS, KEY, METADATA, ROOT, Business, Envoy, Workshop

CHAT = "/seam.business.v1.ChatService/Chat"
PREDICT = "/seam.business.v1.PredictService/Predict"


@pytest.fixture
def http(envoy: Envoy):
    with httpx.Client(base_url=f"http://{envoy.edge}", headers=HEADERS, timeout=60) as client:
        yield client


def test_unary_and_streamed_calls_are_answered(envoy: Envoy) -> None:
    with Seam(envoy.edge, api_key=KEY) as seam:
        assert seam.predict("hello", max_output_tokens=5).text
        with seam.chat("hello", max_output_tokens=20) as answer:
            assert len(list(answer)) > 1
        assert len(seam.embed(["one", "two"]).embeddings) == 2
        assert {model.name for model in seam.models()} == {"chat", "embed", "score"}


def test_both_business_servers_are_asked(envoy: Envoy) -> None:
    with Seam(envoy.edge, api_key=KEY) as seam:
        for _ in range(40):
            seam.models()
    asked = [next(int(each["value"]) for each in host["stats"] if each["name"] == "rq_total") for host in envoy.hosts()]
    assert len(asked) == 2
    assert min(asked) > 0


def test_errors_keep_their_details(envoy: Envoy) -> None:
    with Seam(envoy.edge, api_key=KEY) as seam, pytest.raises(InvalidRequest) as caught:
        seam.predict("")
    assert caught.value.reason == "TEXT_EMPTY"
    with Seam(envoy.edge, api_key="another-key-that-nobody-knows") as seam, pytest.raises(NotAuthenticated):
        seam.models()


def test_what_was_refused_for_load_or_size_is_not_asked_again(envoy: Envoy) -> None:
    before = envoy.counter("cluster.business_grpc.upstream_rq_retry")
    with grpc.insecure_channel(envoy.edge) as channel:
        stub = predict_service_pb2_grpc.PredictServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(predict_service_pb2.PredictRequest(text="x" * 5_000_000), metadata=METADATA)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert envoy.counter("cluster.business_grpc.upstream_rq_retry") == before


def test_a_unary_call_is_json_too(http: httpx.Client) -> None:
    told = http.post(PREDICT, json={"text": "hello", "maxOutputTokens": 5})
    assert told.status_code == 200
    body = told.json()
    assert (body["model"], body["usage"]["outputTokenCount"]) == ("chat", 5)
    assert http.post("/seam.business.v1.OperationsService/ListModels", json={}).json()["models"]


def test_a_streamed_call_is_one_json_object_a_line(http: httpx.Client) -> None:
    asked = {"messages": [{"role": "user", "content": "hello"}], "stop": {"maxOutputTokens": 6}}
    with http.stream("POST", CHAT, json=asked) as told:
        events = [json.loads(line) for line in told.iter_lines() if line]
    assert [next(iter(event)) for event in events] == ["started", *["text"] * (len(events) - 2), "finished"]
    assert "".join(event["text"]["text"] for event in events[1:-1])


def test_an_error_is_json_with_its_details(http: httpx.Client) -> None:
    told = http.post(PREDICT, json={"text": ""})
    assert told.status_code == 400
    kinds = {detail["@type"].rpartition(".")[2]: detail for detail in told.json()["details"]}
    assert kinds["ErrorInfo"]["reason"] == "TEXT_EMPTY"
    assert kinds["BadRequest"]["fieldViolations"][0]["field"] == "text"
    assert http.post(PREDICT, content=b"{").status_code == 400
    assert http.post("/seam.business.v1.PredictService/Guess", json={}).status_code == 404


def test_openais_client_is_answered(envoy: Envoy) -> None:
    with OpenAI(base_url=f"http://{envoy.edge}/v1", api_key=KEY, max_retries=0) as openai:
        chunks = openai.chat.completions.create(
            model="chat", max_tokens=8, stream=True, messages=[{"role": "user", "content": "hello"}]
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert openai.embeddings.create(model="embed", input="to sew").data[0].embedding
        assert len(openai.models.list().data) == 3


def test_operators_see_what_callers_do_not(envoy: Envoy, http: httpx.Client) -> None:
    with httpx.Client(base_url=f"http://{envoy.probe}", timeout=20) as probe:
        assert probe.get("/ready").text.strip() == "LIVE"
        told = probe.get("/stats/prometheus").text
        for path in ("/quitquitquit", "/config_dump", "/"):
            assert probe.get(path).status_code == 404
    assert "envoy_cluster_grpc_seam_business_v1_PredictService" in told or "envoy_cluster_upstream_rq" in told
    assert http.post("/grpc.channelz.v1.Channelz/GetServers", content=b"").status_code == 404
    assert http.get("/config_dump").status_code == 404
    address = json.loads(envoy.admin("/listeners?format=json").text)
    assert {each["name"] for each in address["listener_statuses"]} == {"edge", "probe"}


def test_a_draining_server_finishes_what_it_answers_and_gets_nothing_new(own: Workshop, replica: str) -> None:
    leaving, staying = own.business(replica), own.business(replica)
    envoy = own.envoy(leaving, staying)
    with Seam(envoy.edge, api_key=KEY) as seam:
        answers = [seam.chat("hello", max_output_tokens=400) for _ in range(4)]
        for answer in answers:
            assert next(iter(answer))  # it has begun
        leaving.process.terminate()
        for _ in range(20):
            assert seam.models()
        for answer in answers:
            assert list(answer)  # raises where it broke off
            answer.close()
    assert leaving.process.wait(60) == 0


def test_an_envoy_that_is_to_end_finishes_what_it_carries_first(own: Workshop, pair: tuple[Business, Business]) -> None:
    """By the script that Kubernetes runs before it tells Envoy to end."""
    port = free_port()
    envoy = own.envoy(*pair, admin=f"127.0.0.1:{port}")
    drain = ["bash", str(ROOT / "deploy/k8s/edge/drain.sh"), "127.0.0.1", str(port), "60"]
    with Seam(envoy.edge, api_key=KEY) as seam, seam.chat("hello", max_output_tokens=900) as answer:
        assert next(iter(answer))
        draining = subprocess.Popen(drain)
        assert seam.models()
        assert list(answer)
    assert draining.wait(60) == 0
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as admin:
        told = admin.get("/stats?filter=^http.edge.downstream_rq_active$").text
    assert told.split() == ["http.edge.downstream_rq_active:", "0"]


def free_port() -> int:
    """Envoy must be told which port, and bash opens no Unix socket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_connections_at_once_have_a_limit_that_probes_do_not_count_in(
    own: Workshop, pair: tuple[Business, Business]
) -> None:
    envoy = own.envoy(*pair, max_connections="4")
    held = [connected(envoy.edge) for _ in range(12)]
    answered = [answers(each) for each in held]
    assert sum(answered) == 4
    assert envoy.counter("listener.127.0.0.1_0.downstream_global_cx_overflow") == 8
    assert httpx.get(f"http://{envoy.probe}/ready").status_code == 200
    for each in held:
        each.close()


def test_new_connections_have_a_rate(own: Workshop, pair: tuple[Business, Business]) -> None:
    envoy = own.envoy(*pair, new_connections_a_second="3")
    made = [connected(envoy.edge) for _ in range(60)]
    assert 3 <= sum(answers(each) for each in made) < 60
    assert envoy.counter("local_rate_limit.new_connections.rate_limited") > 0
    for each in made:
        each.close()


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answers(connection: socket.socket) -> bool:
    """Whether the server does anything but hang up."""
    try:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: edge\r\n\r\n")
        return connection.recv(100).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


def test_the_transcoder_knows_the_details_that_errors_carry() -> None:
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet.FromString((ROOT / "deploy/k8s/edge/business.binpb").read_bytes())
    known = {f".{file.package}.{message.name}" for file in files.file for message in file.message_type}
    for kind in (status_pb2.Status, error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo):
        assert f".{kind.DESCRIPTOR.full_name}" in known
