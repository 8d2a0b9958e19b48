"""One trace from the caller to the model thread and back, as an OTLP receiver gets it from real processes."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import pairwise

import httpx
import pytest
from opentelemetry import trace as trace_api
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from seam_client import AsyncSeam
from support.otlp_receiver import OtlpReceiver, Received, otlp_receiver
from support.told_processes import KEY, told_system

TRACE = bytes.fromhex("0af7651916cd43dd8448eb211c80319c")
CALLER = "b7ad6b7169203331"
CORRECTION = 50_000_000  # nanoseconds
TRACEPARENT = f"00-{TRACE.hex()}-{CALLER}-01"


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    """With the tracer of this process, which is the client's, set up as a program would: once, and for good."""
    with otlp_receiver() as started:
        provider = TracerProvider(resource=Resource.create({"service.name": "caller"}), shutdown_on_exit=False)
        provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=started.endpoint), schedule_delay_millis=50)
        )
        trace_api.set_tracer_provider(provider)
        yield started
        provider.shutdown()


def only(spans: Sequence[Received], name: str) -> Received:
    found = [one for one in spans if one.name == name]
    assert len(found) == 1, (name, [one.name for one in spans])
    return found[0]


def assert_chain(*hops: Received) -> None:
    """Each is the parent of the next, and holds it in time."""
    for outer, inner in pairwise(hops):
        assert inner.span.parent_span_id == outer.span.span_id, (outer.name, inner.name)
        # Clocks of processes are read at their starts: the system may have corrected its own between.
        slack = 0 if outer.service == inner.service else CORRECTION
        assert outer.holds(inner, slack), (outer.name, inner.name)


async def test_a_chat_answer_shows_every_hop_and_where_its_time_went(receiver: OtlpReceiver) -> None:
    async with told_system(settings={"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.endpoint}) as system:
        async with AsyncSeam(system.business.grpc, api_key=KEY) as seam:
            tracer = trace_api.get_tracer("a program")
            with tracer.start_as_current_span("ask") as asking:
                async with seam.chat("What is a seam?", max_output_tokens=40) as answer:
                    await answer.text()
        trace_id = asking.get_span_context().trace_id.to_bytes(16)
        spans = await receiver.trace_with(
            trace_id,
            "ask",
            "chat chat",
            "attempt 1",
            "chat chat at replica",
            "queue",
            "prefill",
            "decode",
            *["seam.business.v1.ChatService/Chat"] * 2,
        )

    calls = [one for one in spans if one.name == "seam.business.v1.ChatService/Chat"]
    client = next(one for one in calls if one.service == "caller")
    edge = next(one for one in calls if one.service == "seam-business")
    request = only(spans, "chat chat at replica")
    assert request.service == "seam-inference"
    hops = [only(spans, "ask"), client, edge, only(spans, "chat chat"), only(spans, "attempt 1"), request]
    assert_chain(*hops)

    phases = [only(spans, name) for name in ("queue", "prefill", "decode")]
    for phase in phases:
        assert_chain(request, phase)
    for before, after in pairwise(phases):
        assert before.span.end_time_unix_nano == after.span.start_time_unix_nano
    assert sum(phase.duration for phase in phases) <= request.duration
    told = answer.finished
    assert told is not None
    for phase, seconds in zip(
        phases, (told.timings.queue_seconds, told.timings.prefill_seconds, told.timings.decode_seconds), strict=True
    ):
        assert abs(phase.duration / 1e9 - seconds) < 2e-6  # what the caller is told is what the trace shows
    assert request.attributes["gen_ai.usage.output_tokens"] == 40
    assert client.attributes["rpc.response.status_code"] == edge.attributes["rpc.response.status_code"] == "OK"
    assert len(spans) == 9


async def test_an_answer_that_was_resumed_shows_both_replicas_in_one_trace(receiver: OtlpReceiver) -> None:
    settings = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.endpoint}
    async with told_system(replicas=2, step_seconds=0.01, settings=settings) as system:
        async with AsyncSeam(system.business.grpc, api_key=KEY) as seam:
            with trace_api.get_tracer("a program").start_as_current_span("ask") as asking:
                async with seam.chat("Go on", max_output_tokens=120) as answer:
                    pieces = aiter(answer)
                    for _ in range(20):
                        await anext(pieces)
                    working = [one for one in (await seam.status()).replicas if one.live_request_count]
                    victim = next(one for one in system.replicas if one.grpc == working[0].address)
                    other = next(one for one in system.replicas if one is not victim)
                    victim.kill()
                    await answer.text()
        trace_id = asking.get_span_context().trace_id.to_bytes(16)
        spans = await receiver.trace_with(trace_id, "ask", "chat chat", "attempt 1", "attempt 2", "decode")

    first, second = only(spans, "attempt 1"), only(spans, "attempt 2")
    assert first.attributes["server.address"] == victim.grpc
    assert second.attributes["server.address"] == other.grpc
    assert first.attributes["seam.replica.id"] != second.attributes["seam.replica.id"]
    assert first.attributes["error.type"] == "REPLICA_LOST"
    assert [event.name for event in first.span.events] == ["resume"]
    assert [link.span_id for link in second.span.links] == [first.span.span_id]
    work = only(spans, "chat chat")
    assert_chain(work, first)
    assert_chain(work, second, only(spans, "chat chat at replica"))
    given = second.attributes["seam.resumed.tokens"]
    assert 20 <= given < 120
    assert only(spans, "chat chat at replica").attributes["gen_ai.usage.output_tokens"] == 120 - given
    assert work.attributes["gen_ai.usage.output_tokens"] == 120


async def test_http_goes_on_with_the_callers_trace_and_errors_are_told(receiver: OtlpReceiver) -> None:
    settings = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.endpoint}
    headers = {"authorization": f"Bearer {KEY}", "traceparent": TRACEPARENT, "tracestate": "shop=42"}
    async with told_system(settings=settings) as system:
        async with httpx.AsyncClient(base_url=f"http://{system.business.http}", headers=headers, timeout=60) as http:
            answered = await http.post("/v1/embeddings", json={"model": "embed", "input": ["to sew"]})
            assert answered.status_code == 200
            refused = await http.post("/v1/embeddings", json={"model": "nobody", "input": ["to sew"]})
            assert refused.status_code == 404
        names = ["POST /v1/embeddings"] * 2
        spans = await receiver.trace_with(TRACE, *names, "embeddings embed at replica", "embeddings nobody", "prefill")

    edges = sorted(
        (one for one in spans if one.name == "POST /v1/embeddings"), key=lambda one: one.span.start_time_unix_nano
    )
    assert [edge.span.parent_span_id.hex() for edge in edges] == [CALLER, CALLER]
    assert [edge.attributes["http.response.status_code"] for edge in edges] == [200, 404]
    assert [edge.span.trace_state for edge in edges] == ["shop=42", "shop=42"]
    request = only(spans, "embeddings embed at replica")
    assert request.span.trace_state == "shop=42"
    assert_chain(edges[0], only(spans, "embeddings embed"), only(spans, "attempt 1"), request, only(spans, "queue"))
    assert_chain(edges[1], only(spans, "embeddings nobody"))
    assert only(spans, "embeddings nobody").attributes["error.type"] == "MODEL_NOT_FOUND"


async def test_a_caller_who_does_not_sample_is_not_traced(receiver: OtlpReceiver) -> None:
    unsampled, sampled = bytes.fromhex("1" * 32), bytes.fromhex("2" * 32)
    settings = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.endpoint}
    async with told_system(settings=settings) as system:
        async with httpx.AsyncClient(base_url=f"http://{system.business.http}", timeout=60) as http:
            for trace_id, flags in ((unsampled, "00"), (sampled, "01")):
                headers = {"authorization": f"Bearer {KEY}", "traceparent": f"00-{trace_id.hex()}-{CALLER}-{flags}"}
                answered = await http.post("/predict", json={"text": "hello"}, headers=headers)
                assert answered.status_code == 200
        await receiver.trace_with(sampled, "POST /predict", "decode")
        for one in (*system.replicas, system.business):
            await one.leave()  # they flush what they hold
    assert receiver.trace(unsampled) == []


async def test_without_a_collector_all_is_answered_and_the_log_stays_short() -> None:
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_BSP_MAX_QUEUE_SIZE": "16",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "SEAM_LOG_REQUESTS": "off",
    }
    async with told_system(settings=settings) as system:
        async with AsyncSeam(system.business.grpc, api_key=KEY) as seam:
            for _ in range(10):
                await asyncio.gather(*(seam.embed(["to sew"]) for _ in range(20)))
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"http://{system.business.metrics}/metrics")).text
        lost = [line for line in metrics.splitlines() if line.startswith("seam_telemetry_spans_dropped_total")]
        assert float(lost[0].split()[-1]) > 100
        for one in (system.business, *system.replicas):
            await one.leave()
            assert one.process.returncode == 0
            assert len(one.log.read_text().splitlines()) < 30, one.log.read_text()
