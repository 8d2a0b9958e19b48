"""One line for each request, by structlog."""

import logging
import sys
from typing import Any, TextIO

import structlog

from seam_telemetry.settings import LogStyle


class RequestLog:
    """Lines go to `stream` (standard error, as it is then) whole; values that are None are left out."""

    def __init__(self, style: LogStyle, service: str = "", stream: TextIO | None = None) -> None:
        self.on = style is not LogStyle.OFF
        self._logger: Any = structlog.wrap_logger(
            structlog.WriteLogger(stream or sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _renderer(style),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            cache_logger_on_first_use=True,
        ).bind(service=service)

    def request(self, **facts: object) -> None:
        if self.on:
            self._logger.info("request", **{name: value for name, value in facts.items() if value is not None})


def _renderer(style: LogStyle) -> Any:
    if style is LogStyle.JSON:
        return structlog.processors.JSONRenderer()
    return structlog.processors.LogfmtRenderer(
        key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False
    )


def take_logs(style: LogStyle) -> None:
    """Everything else that this process logs leaves in the same form, on standard error."""
    shared: list[Any] = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _renderer(style),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
