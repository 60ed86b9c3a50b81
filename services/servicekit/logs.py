"""Structured logs on standard error: one line per event, with the service and the request id."""

import logging
import sys
from typing import Any, Literal, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from servicekit.request_id import current_request_id


def get_logger(name: str) -> FilteringBoundLogger:
    """Give a logger whose lines carry its name; takes effect lazily, so it may be made at import."""
    return cast("FilteringBoundLogger", structlog.get_logger(module=name))


def configure_logging(service: str, *, level: str = "INFO", format: Literal["console", "json"] = "json") -> None:  # noqa: A002 - the word of the setting
    """Send structlog's and the standard library's logs the same way; called once, first thing in `main`."""

    def add_origin(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        request_id = current_request_id()
        if request_id:
            event["request_id"] = request_id
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_origin,
    ]
    rendering: list[Processor] = (
        # Plain tracebacks: the fancy ones show the values of variables, keys and histories among them.
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if format == "console"
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    lowest = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _add_standard_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=lowest, force=True)


def _add_standard_logger_name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: Any = event.get("_record")
    if record is not None:
        event["module"] = record.name
    return event
