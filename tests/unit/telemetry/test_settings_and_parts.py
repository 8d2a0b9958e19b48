"""What is told to whom, and what must hold of the parts that carry it."""

import io
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import get_current_span
from seam_telemetry.carrying import parent_of, strings_of
from seam_telemetry.labels import UNKNOWN, KnownNames
from seam_telemetry.lean_spans import LeanTracer
from seam_telemetry.naming import NamingTracer
from seam_telemetry.request_log import RequestLog
from seam_telemetry.settings import LogStyle, TelemetrySettingsError, read_telemetry_settings
from seam_telemetry.span_queue import SpanQueue


def read(**environment):
    return read_telemetry_settings(environment, "seam-test", "SEAM_METRICS_LISTEN")


def test_nothing_leaves_the_process_unless_it_is_said_to_whom():
    told = read()
    assert (told.metrics_listen, told.otlp_traces, told.otlp_metrics, told.log_content) == ("", "", "", False)


def test_a_signal_may_have_an_endpoint_of_its_own_or_be_left_out():
    told = read(OTEL_EXPORTER_OTLP_ENDPOINT="http://a:1", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://b:2")
    assert (told.otlp_traces, told.otlp_metrics) == ("http://b:2", "http://a:1")
    told = read(OTEL_EXPORTER_OTLP_ENDPOINT="http://a:1", OTEL_METRICS_EXPORTER="none")
    assert (told.otlp_traces, told.otlp_metrics) == ("http://a:1", "")
    told = read(OTEL_EXPORTER_OTLP_ENDPOINT="http://a:1", OTEL_SDK_DISABLED="true")
    assert (told.otlp_traces, told.otlp_metrics) == ("", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("SEAM_LOG_REQUESTS", "loud"),
        ("SEAM_LOG_CONTENT", "perhaps"),
        ("SEAM_METRICS_LISTEN", "9464"),
    ],
)
def test_a_wrong_variable_is_named(name, value):
    with pytest.raises(TelemetrySettingsError, match=f"^{name}: "):
        read(**{name: value})


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans(), st.sampled_from(["", "a=b", "a=b,c=d"]))
def test_a_context_goes_through_strings_unchanged(trace_id, span_id, sampled, state):
    told = f"00-{trace_id:032x}-{span_id:016x}-{int(sampled):02x}"
    assert strings_of(get_current_span(parent_of(told, state))) == (told, state)


@given(
    st.text(max_size=60) | st.sampled_from([f"00-{'0' * 32}-{'1' * 16}-01", f"ff-{'1' * 32}-{'1' * 16}-01", "00-1-2-3"])
)
def test_what_is_no_context_begins_a_trace(told):
    assert strings_of(get_current_span(parent_of(told, "a=b"))) == ("", "")
    assert strings_of(get_current_span(parent_of(told))) == ("", "")


class BlockedExporter(SpanExporter):
    def __init__(self):
        self.gate, self.entered, self.exported = threading.Event(), threading.Event(), []

    def export(self, spans):
        self.entered.set()
        self.gate.wait(60)
        self.exported += spans
        return SpanExportResult.SUCCESS

    def shutdown(self):
        """Nothing is held."""


def test_spans_are_dropped_rather_than_waited_for_and_counted():
    exporter = BlockedExporter()
    queue = SpanQueue(exporter, most=10, batch=4, pause=0.01)
    tracer = LeanTracer("test", Resource({}), ALWAYS_ON, queue.ended)
    for _ in range(4):
        tracer.start_span("first").end()
    assert exporter.entered.wait(60)
    for _ in range(30):
        tracer.start_span("later").end()
    assert 16 <= queue.dropped <= 20  # up to four of the first were still waiting
    exporter.gate.set()
    queue.shutdown()
    assert len(exporter.exported) == 34 - queue.dropped


def test_where_nothing_is_recorded_a_request_still_has_a_trace_to_be_found_by():
    tracer = NamingTracer()
    first = tracer.start_span("call")
    assert not first.is_recording()
    traceparent, _ = strings_of(first)
    assert traceparent.endswith("-00")  # nobody samples it further on
    assert strings_of(tracer.start_span("inner", parent_of(traceparent)))[0] == traceparent


def test_only_names_that_proved_themselves_are_labels_and_few():
    names = KnownNames(most=2)
    assert names.claimed("chat") == UNKNOWN
    assert [names.proved(name) for name in ("chat", "embed", "third")] == ["chat", "embed", UNKNOWN]
    assert names.claimed("chat") == "chat"


@pytest.mark.parametrize("style", list(LogStyle))
def test_a_request_is_one_line(style):
    stream = io.StringIO()
    RequestLog(style, "seam-test", stream).request(model="a\nb", answer='say "x"', reason=None)
    lines = stream.getvalue().splitlines()
    if style is LogStyle.OFF:
        assert lines == []
        return
    assert len(lines) == 1
    if style is LogStyle.JSON:
        told = json.loads(lines[0])
        assert (told["service"], told["model"], told["event"]) == ("seam-test", "a\nb", "request")
        assert "reason" not in told
