"""The metrics code of both servers: buckets, the text that a scraper reads, and the server that sends it.

Names and units follow the conventions of Prometheus: base units (seconds, bytes), `_total` for counters.
"""

from __future__ import annotations

from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from threading import Thread

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.exposition import choose_encoder

from lodestream_common.address import Address, cannot_listen, check_free

SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of the metrics library: where processes that count together keep their numbers. The
library reads it when it is imported."""
STREAM_INTERVAL_TEXT = (
    "Time for which streams gather tokens between two messages; of several processes the largest."
)
STREAM_INTERVAL_PERIOD = 0.5
"""Seconds between two readings of the stream interval: the metrics library cannot ask another process."""
LATENCY_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
"""Buckets of times to first token, of queue, prefill, decode and whole requests."""
TOKEN_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.03,
    0.04,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1.0,
    2.5,
)
"""Buckets of the time between two tokens."""
TOKEN_COUNTS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
"""Buckets of the lengths of prompts and outputs, in tokens."""


@dataclass(frozen=True, slots=True)
class Exposition:
    """All metrics as text for one scraper."""

    body: bytes
    content_type: str


def expose(registry: CollectorRegistry, accept: str | None) -> Exposition:
    """Write all metrics, as OpenMetrics where the scraper accepts it, else as Prometheus text.

    Args:
        registry: what to write.
        accept: the scraper's Accept header.

    """
    encode, content_type = choose_encoder(accept or "")
    return Exposition(encode(registry), content_type)


class MetricsServer:
    """Serves the metrics over HTTP from its own thread, so that a busy event loop delays no scrape."""

    def __init__(self, address: Address, registry: CollectorRegistry) -> None:
        """Listen.

        Raises:
            OperatorError: the address is taken or is not this machine's.

        """
        check_free(address, "metrics_address")
        try:
            started: tuple[ThreadingHTTPServer, Thread] = start_http_server(
                address.port, address.host, registry
            )  # type: ignore[assignment]
        except OSError as error:
            raise cannot_listen(address, "metrics_address", error) from error
        self._server, self._thread = started
        self.address = Address(address.host, self._server.server_port)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
