"""The gRPC server: assembles the parts, serves, watches the running calls, drains and stops."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import model_service_pb2 as model_pb
from lodestream.inference.v1 import usage_service_pb2 as usage_pb

from inference_service.accounting import Accounting, LocalAccounting
from inference_service.config import ServiceConfig
from inference_service.errors import NotReady, ReaderStalled, Unauthenticated
from inference_service.metrics import Reading
from inference_service.rpc.auth import Access
from inference_service.rpc.call import RunningCalls
from inference_service.rpc.connections import AuthInterceptor, channel_options, server_credentials
from inference_service.rpc.health import HealthMonitor, State, admit_by_state
from inference_service.rpc.services import GenerateServicer, ModelServicer, UsageServicer
from inference_service.rpc.smg import SERVICE as SMG_SERVICE
from inference_service.rpc.smg import smg_handler
from inference_service.scheduling import loaded_engine
from inference_service.scheduling.loaded_engine import EngineSlot, LoadedEngine
from inference_service.scheduling.workers import FairPool
from lodestream_common import tracing
from lodestream_common.address import Address, cannot_listen, check_free, check_open_address, parse_address
from lodestream_common.errors import SettingError
from lodestream_common.failed_keys import FailedKeys
from lodestream_common.keys import Keyring
from lodestream_common.machine import usable_cores
from lodestream_common.metrics import STREAM_INTERVAL_PERIOD
from lodestream_common.pacing import Interval, Pacer, no_interval
from lodestream_common.proxies import TrustedProxies
from lodestream_common.ready import announce_ready
from lodestream_common.request_log import LogSample
from lodestream_common.tls import FollowedPem, TlsFiles, check_plain_text
from lodestream_common.waiting import finishes_before

_log = structlog.get_logger(__name__)

SERVICES = (
    generate_pb.DESCRIPTOR.services_by_name["GenerateService"].full_name,
    model_pb.DESCRIPTOR.services_by_name["ModelService"].full_name,
    usage_pb.DESCRIPTOR.services_by_name["UsageService"].full_name,
)

_WAITING_MESSAGES = 16
"""Messages of the largest size that may wait for a worker, in all."""
_KEYS_INTERVAL = 0.4
"""Seconds between two checks of the running calls' keys."""
_FILES_INTERVAL = 0.5
"""Seconds between two checks for changes of the keys file and the filter rules."""

Load = Callable[[ServiceConfig, FairPool, FairPool], Awaitable[LoadedEngine]]
"""Loads the engine, or finds the loaded one: see `loaded_engine.build`."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that a server shares with the others on its port."""

    accounting: Accounting
    load: Load
    failed_keys: FailedKeys
    least_interval: Interval
    """The stream interval that the engine's process needs, in seconds."""


class Server:
    """The service on its address, from binding it until the last answer is sent.

    Args:
        config: the settings.
        shared: with the other servers on the same port; None: this one is alone.

    Raises:
        OperatorError: the keys or the certificate cannot be read, `limits_url` is malformed, or a server
            without keys or without TLS would listen beyond loopback.

    """

    def __init__(self, config: ServiceConfig, shared: Parts | None = None) -> None:
        self.config = config
        keyring = Keyring(config.keys_file)
        self._requested_address = parse_address(config.grpc_address, "grpc_address")
        check_open_address(self._requested_address, keyring.requires_key, "grpc_address")
        self._certificates = _certificates(config)
        check_plain_text(
            self._requested_address,
            allowed=config.insecure or self._certificates is not None,
            setting="grpc_address",
            remedy="--tls-certificate and --tls-key",
        )
        if not keyring.requires_key:
            _log.warning("no_api_keys", reason="no key exists: anybody on this machine may call")
        self._keyring = keyring
        self._slot = EngineSlot()
        self._is_shared = shared is not None
        parts = shared or Parts(
            LocalAccounting(config, self._reading), loaded_engine.build, FailedKeys(), no_interval
        )
        self.accounting = parts.accounting
        self._load = parts.load
        self._access = Access(keyring, parts.failed_keys)
        self._pacer = Pacer(config.max_stream_interval, config.stream_pacing, least=parts.least_interval)
        threads, most_bytes = usable_cores(), _WAITING_MESSAGES * config.max_message_bytes
        self._workers = FairPool(threads, "lodestream-worker", most_bytes)
        self._compilers = FairPool(threads, "lodestream-compiler", most_bytes)
        self._tracer = tracing.start("service")
        self.calls = RunningCalls(
            self._access,
            parts.accounting.quotas,
            config.max_message_bytes,
            config.body_timeout,
            tracer=self._tracer,
            log_sample=LogSample.parse(config.log_sample),
            proxies=TrustedProxies(config.trusted_proxies),
        )
        self.health = HealthMonitor(SERVICES, self._slot.stats, config.stall_timeout, self._on_state)
        self.calls.observers.append(parts.accounting.observe)
        self._tasks: list[asyncio.Task[None]] = []
        self._grpc = self._assemble()
        self.address: Address | None = None

    async def start(self) -> Address:
        """Listen, load the engine, become ready. Returns the bound address.

        Raises:
            OperatorError: the port is taken, or the engine cannot be loaded.

        """
        self.address = self._bind()
        self.accounting.open(self.address)
        await self._grpc.start()
        self._slot.fill(await self._load(self.config, self._workers, self._compilers))
        self.health.enter(State.READY)
        self._tasks = [
            asyncio.create_task(self.health.watch(), name="health"),
            asyncio.create_task(self._watch_readers(), name="stalled-readers"),
            asyncio.create_task(self._watch_keys(), name="keys"),
            asyncio.create_task(self._watch_files(), name="watched-files"),
            asyncio.create_task(self._watch_interval(), name="stream-interval"),
        ]
        _log.info("serving", address=str(self.address), model=self._slot.loaded.model.id)
        return self.address

    async def drain(self, abort: asyncio.Event) -> None:
        """Refuse new calls, let running ones finish within the grace period, and abort the rest.

        Args:
            abort: ends the grace period once set.

        """
        self.health.enter(State.DRAINING)
        self._slot.loaded.admission.close()
        _log.info("draining", running=len(self.calls), grace=self.config.shutdown_grace)
        await finishes_before(abort, self.calls.wait_idle(self.config.shutdown_grace))
        for call in self.calls:
            call.end_with(NotReady("it is shutting down"))
        await self.calls.wait_idle(2.0)

    async def stop(self) -> None:
        """Stop at once. Safe to call at any time, and twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._grpc.stop(0.2)
        await self._slot.close()
        await self.accounting.close()
        for pool in (self._workers, self._compilers):
            pool.close()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)

    @property
    def metrics_address(self) -> Address | None:
        """The address of the metrics; None: they are not served."""
        return self.accounting.metrics_address

    def _reading(self) -> Reading | None:
        """The state of the service now, for a scrape."""
        if not self._slot.is_filled:
            return None
        loaded = self._slot.loaded
        return Reading(
            loaded.model.id,
            loaded.model.engine,
            self._slot.stats(),
            loaded.admission.waiting,
            self.health.state.value,
        )

    def _assemble(self) -> grpc.aio.Server:
        config = self.config
        quotas = self.accounting.quotas
        options = channel_options(
            config.max_message_bytes,
            config.header_timeout,
            config.max_connections,
            is_shared=self._is_shared,
        )
        server = grpc.aio.server(options=options, interceptors=[AuthInterceptor(self.calls)])
        server.add_generic_rpc_handlers(
            (
                GenerateServicer(self._slot, self._pacer, quotas).handlers(self.calls),
                ModelServicer(self._slot).handlers(self.calls),
                UsageServicer(self.accounting.find_receipt).handlers(self.calls),
            )
        )
        further: tuple[str, ...] = ()
        if config.smg_worker:
            handler = smg_handler(
                config,
                slot=self._slot,
                pacer=self._pacer,
                quotas=quotas,
                health=self.health,
                calls=self.calls,
            )
            server.add_generic_rpc_handlers((handler,))
            further = (SMG_SERVICE,)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, server)
        reflection.enable_server_reflection(
            (*SERVICES, *further, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        return server

    def _bind(self) -> Address:
        if not self._is_shared:
            check_free(self._requested_address, "grpc_address")
        try:
            port = self._listen(str(self._requested_address))
        except RuntimeError as error:
            # Another process took the port since, or gRPC has a reason of its own.
            raise cannot_listen(self._requested_address, "grpc_address", OSError(str(error))) from error
        return (
            self._requested_address
            if self._requested_address.is_unix
            else Address(self._requested_address.host, port)
        )

    def _listen(self, address: str) -> int:
        if self._certificates is None:
            return self._grpc.add_insecure_port(address)
        return self._grpc.add_secure_port(address, server_credentials(self._certificates))

    def _on_state(self, state: State) -> None:
        admit_by_state(self._slot.loaded.admission, state)

    async def _watch_keys(self) -> None:
        """End the running calls of keys that were revoked, or have expired."""
        while True:
            await asyncio.sleep(_KEYS_INTERVAL)
            for call in self.calls:
                if call.caller is not None and not self._access.is_still_active(call.caller):
                    call.end_with(Unauthenticated("The API key was revoked, or has expired."))

    async def _watch_readers(self) -> None:
        """End streams whose caller does not read: they hold memory, and a slot that others wait for."""
        limit = self.config.stall_timeout
        while True:
            await asyncio.sleep(min(1.0, limit / 4))
            now = time.monotonic()
            for call in self.calls:
                if call.writing_since is not None and now - call.writing_since > limit:
                    call.end_with(ReaderStalled(limit))

    async def _watch_interval(self) -> None:
        """Keep the metric of the stream interval up to date."""
        while True:
            self.accounting.note_interval(self._pacer.current)
            await asyncio.sleep(STREAM_INTERVAL_PERIOD)

    async def _watch_files(self) -> None:
        """Load changed keys and filter rules, so that a broken file is logged even while no request comes."""
        policy = self._slot.loaded.policy
        while True:
            await asyncio.sleep(_FILES_INTERVAL)
            self._keyring.refresh()
            if self._certificates is not None:
                self._certificates.refresh()
            if policy is not None:
                policy.refresh()


def _certificates(config: ServiceConfig) -> FollowedPem | None:
    names = ("tls_certificate", "tls_key", "tls_client_ca")
    files = TlsFiles(config.tls_certificate, config.tls_key, config.tls_client_ca, names)
    if files.certificate is None and files.key is None:
        if files.authorities is not None:
            raise SettingError("tls_client_ca: needs tls_certificate, too")
        return None
    return FollowedPem(files)


def run(config: ServiceConfig) -> int:
    """Serve until a signal. Returns the exit status: 0 after a clean stop, 1 where the engine died.

    Raises:
        OperatorError: it cannot start.

    """
    import uvloop

    return uvloop.run(serve(config))


async def serve(
    config: ServiceConfig,
    shared: Parts | None = None,
    on_ready: Callable[[str], None] = announce_ready,
) -> int:
    """Serve on the running loop until SIGTERM or SIGINT. Returns the exit status.

    Args:
        config: the settings.
        shared: see `Server`.
        on_ready: is called with the bound `host:port` once requests are answered.

    """
    server = Server(config, shared)
    stop, abort = listen_to_signals()
    try:
        if not await finishes_before(stop, server.start()):
            return 0
        # Vocabulary and engine live as long as the process: exclude them from garbage collection.
        gc.collect()
        gc.freeze()
        on_ready(str(server.address))
        died = await finishes_before(stop, server.health.died.wait())
        await server.drain(abort)
        return int(died)
    finally:
        await server.stop()
        if server.address is not None:
            _log.info("stopped")


def listen_to_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Events that the first and the second SIGTERM or SIGINT set."""
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, on_signal)
    return first, second
