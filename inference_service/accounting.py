"""The accounting of a service: the quotas of keys, metrics, and usage receipts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog
from prometheus_client.multiprocess import MultiProcessCollector

from inference_service.config import ServiceConfig
from inference_service.errors import ReceiptNotFound
from inference_service.metrics import CallMetrics, EngineMetrics, Reading
from inference_service.receipts import Receipts, open_receipts
from inference_service.rpc.buckets import QuotaBuckets
from inference_service.rpc.call import RpcCall
from inference_service.rpc.quotas import QuotaControl, Quotas
from lodestream_common.address import Address, parse_address
from lodestream_common.metrics import MetricsServer
from lodestream_common.receipts import Receipt

_log = structlog.get_logger(__name__)


class Accounting(Protocol):
    """The accounting as a server uses it; it is in this process, or in that of the engine."""

    @property
    def quotas(self) -> QuotaControl:
        """The quotas of the keys."""

    @property
    def metrics_address(self) -> Address | None:
        """The address of the metrics; None: they are not served."""

    def open(self, address: Address) -> None:
        """Start, for a service that listens on this address."""

    def observe(self, call: RpcCall, outcome: str) -> None:
        """Count an RPC that ended."""

    def note_interval(self, seconds: float) -> None:
        """Keep the stream interval of this process for the metrics."""

    async def find_receipt(self, request_id: str, key_id: str) -> Receipt | None:
        """The newest receipt of a request of a key; None: there is none."""

    async def close(self) -> None:
        """Write the receipts that wait, and end."""


class LocalAccounting(Accounting):
    """The accounting in the process that has the engine.

    Args:
        config: the settings.
        read: reads the state of the service; None while it starts.
        calls_directory: where other processes count the RPCs, in files of the metrics library; None: they are
            counted here, where somebody can read them.

    Raises:
        OperatorError: `limits_url` is malformed.

    """

    def __init__(
        self, config: ServiceConfig, read: Callable[[], Reading | None], calls_directory: Path | None = None
    ) -> None:
        self._config = config
        self._metrics = EngineMetrics(read, with_gateway_names=config.metrics_gateway_names)
        self._calls: CallMetrics | None = None
        if calls_directory is not None:
            MultiProcessCollector(self._metrics.registry, str(calls_directory))  # type: ignore[no-untyped-call]
        elif config.metrics_address is not None:
            self._calls = CallMetrics(self._metrics.registry, with_keys=config.metrics_keys)
        self._quotas = Quotas(config.requests_per_minute, QuotaBuckets(config.limits_url))
        self._quotas.buckets.on_failure = self._metrics.limits_unavailable.inc
        self._metrics_server: MetricsServer | None = None
        self._receipts: Receipts | None = None

    @property
    def quotas(self) -> Quotas:
        """The quotas of the keys."""
        return self._quotas

    @property
    def metrics_address(self) -> Address | None:
        """The address of the metrics; None: they are not served."""
        return None if self._metrics_server is None else self._metrics_server.address

    @property
    def keeps_receipts(self) -> bool:
        """Whether receipts are kept."""
        return self._receipts is not None

    def open(self, address: Address) -> None:
        """Serve the metrics and begin with the receipts, for a service that listens on this address.

        Raises:
            OperatorError: the address of the metrics is taken, or the receipts cannot be kept.

        """
        if self._config.metrics_address is not None:
            wanted = parse_address(self._config.metrics_address, "metrics_address")
            self._metrics_server = MetricsServer(wanted, self._metrics.registry)
            _log.info("serving_metrics", address=str(self.metrics_address))
        self._receipts = open_receipts(
            self._config,
            str(address),
            on_dropped=self._metrics.receipts_dropped.inc,
            on_gap=lambda cause: self._metrics.receipts_gaps.labels(cause).inc(),
        )

    def observe(self, call: RpcCall, outcome: str) -> None:
        """Count an RPC that ended in this process."""
        if self._calls is not None:
            self._calls.observe(call, outcome)
        if self._receipts is not None:
            self._receipts.observe(call, outcome)

    def note_interval(self, seconds: float) -> None:
        """Keep the stream interval of this process for the metrics."""
        if self._calls is not None:
            self._calls.stream_interval.set(seconds)

    def add_receipt(self, receipt: Receipt) -> None:
        """Take the receipt of an RPC that ended in another process."""
        if self._receipts is not None:
            self._receipts.add(receipt)

    def note_crash(self) -> None:
        """Note that a process ended whose calls then have no receipts."""
        if self._receipts is not None:
            self._receipts.note_crash()

    async def find_receipt(self, request_id: str, key_id: str) -> Receipt | None:
        """The newest receipt of a request of a key; None: there is none.

        Raises:
            ReceiptNotFound: none are kept.
            NotReady: the database does not answer.

        """
        if self._receipts is None:
            raise ReceiptNotFound(are_kept=False)
        return await self._receipts.find(request_id, key_id)

    async def close(self) -> None:
        """Write the receipts that wait, finish what is being counted, and serve no more metrics."""
        if self._receipts is not None:
            await asyncio.to_thread(self._receipts.close)
        await self._quotas.close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
