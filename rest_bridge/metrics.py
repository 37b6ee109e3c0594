"""The bridge's metrics: what each HTTP request came to, and the stream interval."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.multiprocess import MultiProcessCollector

from lodestream_common.metrics import LATENCY_SECONDS, SHARED_DIRECTORY, STREAM_INTERVAL_TEXT

UNKNOWN_ROUTE = "unknown"
"""The label of requests that no route took; their paths are their callers' own words."""


class BridgeMetrics:
    """Counts requests as they end."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # The metrics library takes longer to find the metric of some labels than to count.
        self._requests = cache(
            Counter(
                "lodestream_bridge_requests",
                "HTTP requests that ended, by outcome: ok, client_gone, or the code of the error.",
                ("route", "method", "status", "outcome"),
                registry=self.registry,
            ).labels
        )
        self._duration = cache(
            Histogram(
                "lodestream_bridge_request_duration_seconds",
                "From a request's head to the end of its reply.",
                ("route",),
                buckets=LATENCY_SECONDS,
                registry=self.registry,
            ).labels
        )
        self._first_byte = cache(
            Histogram(
                "lodestream_bridge_time_to_first_byte_seconds",
                "From a request's head to the first byte of its reply's body.",
                ("route",),
                buckets=LATENCY_SECONDS,
                registry=self.registry,
            ).labels
        )
        self.active = Gauge(
            "lodestream_bridge_requests_active",
            "HTTP requests that are open.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.stream_interval = Gauge(
            "lodestream_bridge_stream_interval_seconds",
            STREAM_INTERVAL_TEXT,
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._build = Info("lodestream_build", "The version of lodestream.", registry=self.registry)
        self._build.info({"version": version("lodestream")})
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    @property
    def exposed(self) -> CollectorRegistry:
        """The text for scrapers: of several workers the sums of all and the largest stream interval, and
        nothing of one process alone.
        """
        if SHARED_DIRECTORY not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(self._build)
        return registry

    def observe(
        self,
        *,
        route: str | None,
        method: str,
        status: int | None,
        outcome: str,
        seconds: float,
        first_byte_seconds: float | None,
    ) -> None:
        """Count a request that ended.

        Args:
            route: the path of its route as declared; None: no route took it.
            method: of HTTP; others than the known ones are counted as one.
            status: of the reply; None: none was sent.
            outcome: as in the log line.
            seconds: how long it took.
            first_byte_seconds: when its reply's body began; None: it did not.

        """
        route = route or UNKNOWN_ROUTE
        method = method if method in _METHODS else "other"
        self._requests(route, method, str(status or ""), outcome).inc()
        self._duration(route).observe(seconds)
        if first_byte_seconds is not None:
            self._first_byte(route).observe(first_byte_seconds)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
