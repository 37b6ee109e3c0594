"""OpenTelemetry traces of both servers: whether there are any, their spans, and where they are sent.

The standard `OTEL_*` variables configure them. The SDK is imported only where an endpoint is set.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlparse

import structlog

from lodestream_common.errors import OperatorError, SettingError, install_command

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Span as OtelSpan

Attributes = Mapping[str, "str | int | float | bool | list[str] | None"]
"""Those that are None are left out."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_ONLY = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}
"""Standard variables of which one value is supported."""
_HEADERS = ("traceparent", "tracestate")
_FLUSH_SECONDS = 5.0
"""Seconds that a process waits at its end for its spans to be sent."""


def start(server: Literal["service", "bridge"]) -> Tracer | None:
    """The tracer of this process; None: traces are off.

    Raises:
        OperatorError: traces are on, and the libraries are missing or a variable has an unsupported value.

    """
    if not _is_on():
        return None
    for name in _ENDPOINTS:
        endpoint = os.environ.get(name)
        if endpoint and urlparse(endpoint).scheme not in ("http", "https"):
            raise SettingError(f"{name}: {endpoint} is no http:// or https:// URL")
    for name, only in _ONLY.items():
        if os.environ.get(name, only) not in ("", only):
            raise SettingError(f"{name}: only {only} is supported")
    try:
        return Tracer(server)
    except ImportError as error:
        command = install_command("traces")
        raise OperatorError(
            f"{' or '.join(_ENDPOINTS)} is set, and {error.name} is not installed.\nInstall it: {command}"
        ) from error


def _is_on() -> bool:
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return False
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not is_disabled and os.environ.get("OTEL_TRACES_EXPORTER") != "none"


class Tracer:
    """Makes spans, and sends those that ended from a thread of its own.

    The queue of ended spans is bounded; while the receiver is down, further spans are dropped.

    Args:
        server: the name of the service where no variable gives one is `lodestream-` and this.

    Raises:
        ImportError: the libraries are not installed.

    """

    def __init__(self, server: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # The provider is not the global one: libraries that would make spans of their own do not find it.
        self._provider = TracerProvider(resource=_resource(server), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("lodestream", version("lodestream"))
        self._format = TraceContextTextMapPropagator()

    def start_server_span(
        self, name: str, headers: Iterable[tuple[str, str | bytes]], attributes: Attributes
    ) -> Span:
        """Start the span of a request that arrived. The log lines of its task get `trace_id` from now on.

        Args:
            name: of the span.
            headers: of the request, names in lower case. A `traceparent` that is malformed, or comes more
                than once, begins a new trace, as W3C Trace Context says.
            attributes: the first ones, which a sampler may read.

        """
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        carrier: dict[str, list[str]] = {}
        for header, value in headers:
            if header in _HEADERS and isinstance(value, str):
                carrier.setdefault(header, []).append(value)
        is_valid = len(carrier.get("traceparent", ())) == 1
        parent = self._format.extract(carrier, Context()) if is_valid else Context()
        span = Span(
            self,
            self._tracer.start_span(name, parent, SpanKind.SERVER, attributes=_without_none(attributes)),
        )
        structlog.contextvars.bind_contextvars(trace_id=span.trace_id)
        return span

    def add_child(self, parent: OtelSpan, name: str, began: int, ended: int, attributes: Attributes) -> None:
        """Add an ended span below another. Times are in nanoseconds since the epoch."""
        from opentelemetry.trace import set_span_in_context

        child = self._tracer.start_span(
            name, set_span_in_context(parent), attributes=_without_none(attributes), start_time=began
        )
        child.end(max(began, ended))

    def headers_below(self, span: OtelSpan) -> tuple[tuple[str, str], ...]:
        """The W3C headers that make what a receiver does a part of this span."""
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._format.inject(carrier, set_span_in_context(span))
        return tuple(carrier.items())

    def close(self) -> None:
        """Send what ended, and stop the thread; waits at most 5 seconds. Safe to call twice."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-end", daemon=True)
        closing.start()
        closing.join(_FLUSH_SECONDS)


class Span:
    """The span of one request. Its stages have their times from the monotonic clock."""

    __slots__ = ("_epoch", "_span", "_tracer")

    def __init__(self, tracer: Tracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span
        self._epoch = time.time_ns() - time.monotonic_ns()
        """When the monotonic clock was 0, so that all times of a request have the same distance to it."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def set(self, attributes: Attributes) -> None:
        """Set attributes; those that are None stay as they are."""
        self._span.set_attributes(_without_none(attributes))

    def add_stage(self, name: str, began: float, ended: float, attributes: Attributes | None = None) -> None:
        """Add a child from one time to another, in seconds of the monotonic clock."""
        times = self._epoch + round(began * 1e9), self._epoch + round(ended * 1e9)
        self._tracer.add_child(self._span, name, *times, attributes or {})

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers of a request to another server that make its span a child of this one."""
        return self._tracer.headers_below(self._span)

    def end(self, name: str, attributes: Attributes, error: str | None = None) -> None:
        """End the span.

        Args:
            name: of the span, now that the request's route or method is known.
            attributes: the last ones.
            error: the reason, where the server failed; None: it did not.

        """
        from opentelemetry.trace import StatusCode

        self._span.update_name(name)
        self.set(attributes)
        if error is not None:
            self._span.set_status(StatusCode.ERROR, error)
        self._span.end()


def _without_none(attributes: Attributes) -> dict[str, str | int | float | bool | list[str]]:
    return {name: value for name, value in attributes.items() if value is not None}


def _resource(server: str) -> Resource:
    """The attributes of this process from the variables, and our own name where they give none."""
    from opentelemetry.sdk.resources import Resource

    given = Resource.create({"service.version": version("lodestream")})
    if str(given.attributes.get("service.name", "")).startswith("unknown_service"):
        return given.merge(Resource({"service.name": f"lodestream-{server}"}))
    return given
