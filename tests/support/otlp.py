"""A receiver of OTLP over HTTP that keeps the received spans."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span, as it was sent."""

    server: str
    """The resource's `service.name`."""
    name: str
    trace: str
    id: str
    parent: str
    """The parent's span id; empty for a root span."""
    kind: str
    began: int
    ended: int
    """Nanoseconds since the epoch."""
    attributes: dict[str, Any]
    failed: bool


@dataclass(slots=True)
class Receiver:
    """The spans that were received so far."""

    endpoint: str
    spans: list[ReceivedSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def named(self, name: str, **attributes: Any) -> list[ReceivedSpan]:
        """The spans with a name and, among others, these attributes; `__` stands for a dot."""
        expected = {key.replace("__", "."): value for key, value in attributes.items()}
        return [s for s in self.spans if s.name == name and expected.items() <= s.attributes.items()]

    def children(self, parent: ReceivedSpan) -> list[ReceivedSpan]:
        """The direct children of a span, ordered by start."""
        below = [s for s in self.spans if s.parent == parent.id and s.trace == parent.trace]
        return sorted(below, key=lambda span: span.began)


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """Receive spans on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    server.receiver = receiver  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        receiver: Receiver = self.server.receiver  # type: ignore[attr-defined]
        receiver.bodies.append(body)
        receiver.spans.extend(_spans(ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name of the base class
        """Write nothing."""


def _spans(request: ExportTraceServiceRequest) -> Iterator[ReceivedSpan]:
    for resource in request.resource_spans:
        server = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield _received(server, span)


def _received(server: str, span: trace_pb2.Span) -> ReceivedSpan:
    return ReceivedSpan(
        server,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    found: list[KeyValue] = list(pairs)
    return {pair.key: _value(pair.value) for pair in found}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(inner) for inner in value.array_value.values]
    return getattr(value, kind) if kind else None
