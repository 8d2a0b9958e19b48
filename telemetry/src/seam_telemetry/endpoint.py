"""Metrics over HTTP, as Prometheus reads them."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CollectorRegistry, start_http_server


@contextmanager
def serve_metrics(listen: str) -> Iterator[tuple[PrometheusMetricReader, str]]:
    """The reader to give to a MeterProvider, and the address as bound: every path answers. Raises OSError."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry, scope_info_enabled=False)
    try:
        server, thread = start_http_server(int(port), host, registry)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {listen}: {error.strerror}") from error
    try:
        yield reader, f"{f'[{host}]' if ':' in host else host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
