"""Spans on their way to an exporter: bounded, never waited for, and told of once where they are lost."""

import logging
import os
import threading
from collections import deque

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

_log = logging.getLogger(__name__)


class SpanQueue:
    """As the SDK batches, without its line of log for every span that finds the queue full. A thread of its own
    exports; while that fails, at most `most` spans wait and the rest is counted in `dropped`."""

    def __init__(self, exporter: SpanExporter, *, most: int = 8192, batch: int = 512, pause: float = 2.0) -> None:
        """`pause`: seconds between exports, unless half the queue is filled before."""
        self._exporter = exporter
        self._most, self._batch, self._pause = most, batch, pause
        self._waiting: deque[ReadableSpan] = deque()
        self._wake = threading.Event()
        self._ending = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="span export", daemon=True)
        self._thread.start()

    @classmethod
    def of_environment(cls, exporter: SpanExporter) -> "SpanQueue":
        """With the specification's variables for batching; what is no number is as if it were not there."""
        return cls(
            exporter,
            most=_number("OTEL_BSP_MAX_QUEUE_SIZE", 8192),
            batch=_number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
            pause=_number("OTEL_BSP_SCHEDULE_DELAY", 2000) / 1000,
        )

    def ended(self, span: ReadableSpan) -> None:
        if self._ending:
            return
        if len(self._waiting) >= self._most:
            if not self.dropped:
                _log.warning("spans are lost: %d wait to be exported, the most that may", self._most)
            self.dropped += 1
            return
        self._waiting.append(span)
        if len(self._waiting) * 2 >= self._most:
            self._wake.set()

    def shutdown(self) -> None:
        """Two seconds for what waits."""
        self._ending = True
        self._wake.set()
        self._thread.join(2.0)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._ending:
            self._wake.wait(self._pause)
            self._wake.clear()
            self._export()

    def _export(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            try:
                self._exporter.export(taken)
            except Exception:  # whatever a receiver does, requests go on
                _log.warning("spans could not be exported", exc_info=True)


def _number(variable: str, otherwise: int) -> int:
    told = os.environ.get(variable, "")
    return int(told) if told.isdecimal() and int(told) else otherwise
