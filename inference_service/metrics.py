"""The service's metrics: what each RPC came to, and how engine and queue are now.

The two come from one process, or the first from several and the second from the engine's process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from inference_service.backends.types import BackendDescription, BackendStats
from inference_service.rpc.call import RpcCall
from lodestream_common.metrics import LATENCY_SECONDS, STREAM_INTERVAL_TEXT, TOKEN_COUNTS, TOKEN_SECONDS
from lodestream_common.receipts import GAP_CAUSES

NO_MODEL = ""
"""The label of RPCs that ended before their model was known."""


_TOKENS = (
    ("prompt_tokens", "Tokens of prompts that entered the engine or its queue."),
    ("cached_tokens", "Tokens of prompts that the KV cache already held."),
    ("completion_tokens", "Tokens that the engine generated, those of aborted requests included."),
)
_SECONDS = (
    ("time_to_first_token", "From the start of the RPC to its first token.", LATENCY_SECONDS),
    ("inter_token_latency", "Mean time of a token after the first, one value a request.", TOKEN_SECONDS),
    ("request_duration", "From the start of the RPC to its end.", LATENCY_SECONDS),
    ("queue", "Time in the queue.", LATENCY_SECONDS),
    ("prefill", "From the engine's start to the first token.", LATENCY_SECONDS),
    ("decode", "From the first token to the last.", LATENCY_SECONDS),
)
_LENGTHS = (
    ("prompt_tokens", "Tokens of the prompt."),
    ("completion_tokens", "Tokens of all choices."),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of a loaded service now."""

    model: str
    description: BackendDescription
    stats: BackendStats
    waiting: int
    """Requests in the queue."""
    state: str
    """The state of its health."""


class EngineMetrics:
    """Reads the engine when it is scraped, and counts what goes wrong beside it.

    Args:
        read: how the service is now; None while it starts.
        with_gateway_names: queue length and KV use also under the names of vLLM, which Kubernetes' inference
            gateway reads.

    """

    def __init__(self, read: Callable[[], Reading | None], *, with_gateway_names: bool = False) -> None:
        self.registry = CollectorRegistry()
        self.limits_unavailable = Counter(
            "lodestream_limits_unavailable",
            "Counts of quotas that were made in memory, because the Redis of --limits-url did not answer.",
            registry=self.registry,
        )
        self.receipts_dropped = Counter(
            "lodestream_receipts_dropped",
            "Usage receipts that could not be kept: the queue was full, or the database refused them.",
            registry=self.registry,
        )
        self.receipts_gaps = Counter(
            "lodestream_receipts_gaps",
            "Gaps in the usage receipts that were written to their database, by cause.",
            ("cause",),
            registry=self.registry,
        )
        for gap_cause in GAP_CAUSES:
            self.receipts_gaps.labels(gap_cause)
        self.registry.register(_Gauges(read, with_gateway_names))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)


class CallMetrics:
    """Counts RPCs as they end, and has the stream interval of the process that answers them.

    Args:
        registry: that of the metrics.
        with_keys: requests and tokens also carry the name of their API key.

    """

    def __init__(self, registry: CollectorRegistry, *, with_keys: bool = False) -> None:
        self._with_keys = with_keys
        by_key = ("model", "key") if with_keys else ("model",)
        # The metrics library takes longer to find the metric of some labels than to count.
        self._requests = cache(
            Counter(
                "lodestream_requests",
                "RPCs that ended, by outcome: ok, cancelled, or the reason of the error.",
                ("method", "outcome", *by_key),
                registry=registry,
            ).labels
        )
        self._finished = cache(
            Counter(
                "lodestream_choices_finished",
                "Choices that ended, by cause.",
                ("model", "cause"),
                registry=registry,
            ).labels
        )
        self._tokens = {
            name: cache(Counter(f"lodestream_{name}", text, by_key, registry=registry).labels)
            for name, text in _TOKENS
        }
        self._seconds = {
            name: cache(
                Histogram(
                    f"lodestream_{name}_seconds", text, ("model",), buckets=buckets, registry=registry
                ).labels
            )
            for name, text, buckets in _SECONDS
        }
        self._lengths = {
            name: cache(
                Histogram(
                    f"lodestream_request_{name}", text, ("model",), buckets=TOKEN_COUNTS, registry=registry
                ).labels
            )
            for name, text in _LENGTHS
        }

        self.stream_interval = Gauge(
            "lodestream_stream_interval_seconds",
            STREAM_INTERVAL_TEXT,
            registry=registry,
            multiprocess_mode="livemax",
        )

    def observe(self, call: RpcCall, outcome: str) -> None:
        """Count an RPC that ended."""
        facts: dict[str, Any] = call.facts
        model = str(facts.get("model", NO_MODEL))
        labels = [model, call.caller.key_name if call.caller else ""] if self._with_keys else [model]
        self._requests(call.method, outcome, *labels).inc()
        if "queue_ms" not in facts:
            return
        self._seconds["request_duration"](model).observe(call.elapsed_seconds)
        self._seconds["queue"](model).observe(facts["queue_ms"] / 1e3)
        for name, of_labels in self._tokens.items():
            of_labels(*labels).inc(facts.get(name) or 0)
        for cause in (facts["finish"] or "").split(","):
            if cause:
                self._finished(model, cause).inc()
        self._lengths["prompt_tokens"](model).observe(facts["prompt_tokens"])
        completion = facts["completion_tokens"]
        self._lengths["completion_tokens"](model).observe(completion)
        if completion:
            self._observe_tokens(model, facts, completion)

    def _observe_tokens(self, model: str, facts: dict[str, Any], completion: int) -> None:
        self._seconds["prefill"](model).observe(facts["prefill_ms"] / 1e3)
        self._seconds["decode"](model).observe(facts["decode_ms"] / 1e3)
        self._seconds["time_to_first_token"](model).observe(facts["ttft_ms"] / 1e3)
        # Choices decode side by side, so the mean is that of one of them.
        more = completion / max(1, facts["choices"]) - 1
        if more > 0:
            self._seconds["inter_token_latency"](model).observe(facts["decode_ms"] / 1e3 / more)


class _Gauges:
    """Reads engine, queue and health at each scrape."""

    def __init__(self, read: Callable[[], Reading | None], with_gateway_names: bool) -> None:
        self._read = read
        self._with_gateway_names = with_gateway_names

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry must not read an engine that is not there yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield what is known now."""
        yield InfoMetricFamily(
            "lodestream_build", "The version of lodestream.", {"version": version("lodestream")}
        )
        reading = self._read()
        if reading is None:
            return
        model, stats, about = reading.model, reading.stats, reading.description
        yield InfoMetricFamily(
            "lodestream_engine",
            "The engine.",
            {"model": model, "backend": about.name},
        )
        limits = (
            ("context_length_tokens", "Most tokens of a request, prompt and output.", about.context_length),
            ("requests_running_limit", "Generations that may run at once.", about.max_concurrency),
        )
        now = (
            (
                "requests_running",
                "Generations in the engine, aborted ones that it still holds included.",
                stats.running,
            ),
            ("requests_waiting", "Requests in the queue.", reading.waiting),
            ("aborts_pending", "Aborted generations that still hold their slot.", stats.aborts_pending),
            (
                "engine_step_age_seconds",
                "Time since the engine made progress; 0 when nothing runs.",
                stats.last_step_age,
            ),
            (
                "engine_requests_waiting",
                "Requests that the engine holds and does not work on yet.",
                stats.waiting,
            ),
            ("kv_cache_blocks_used", "Blocks of the KV cache that hold something.", stats.kv_blocks_used),
            ("kv_cache_blocks_free", "Blocks of the KV cache that are free.", stats.kv_blocks_free),
        )
        for name, text, value in (*limits, *now):
            if value is not None:
                yield _gauge(f"lodestream_{name}", text, model, value)
        yield _state(reading.state)
        if self._with_gateway_names:
            yield from _gateway_gauges(reading)


_STATES = ("starting", "ready", "degraded", "stalled", "draining", "dead")


def _state(state: str) -> Metric:
    family = GaugeMetricFamily(
        "lodestream_health", "1 for the state that the service is in.", labels=("state",)
    )
    for name in _STATES:
        family.add_metric([name], float(name == state))
    return family


def _gauge(name: str, text: str, model: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("model",))
    family.add_metric([model], value)
    return family


def _gateway_gauges(reading: Reading) -> Iterator[Metric]:
    """The names that the endpoint picker of the Gateway API inference extension reads by default."""
    stats = reading.stats
    used, free = stats.kv_blocks_used, stats.kv_blocks_free
    if used is not None and free is not None and used + free:
        share = used / (used + free)
    else:
        share = min(1.0, stats.running / max(1, reading.description.max_concurrency))
    for name, text, value in (
        ("vllm:num_requests_running", "Generations in the engine.", stats.running),
        ("vllm:num_requests_waiting", "Requests in the queue.", reading.waiting),
        ("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.", share),
    ):
        family = GaugeMetricFamily(name, text, labels=("model_name",))
        family.add_metric([reading.model], value)
        yield family
