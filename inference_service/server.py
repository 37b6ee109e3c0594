"""The gRPC server: assembles the parts, serves, watches the running calls, drains and stops."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
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
from inference_service.rpc.health import HealthMonitor, State, admit_by_state
from inference_service.rpc.interceptor import AuthInterceptor
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
from lodestream_common.pacing import Interval, Pacer, no_interval
from lodestream_common.proxies import TrustedProxies
from lodestream_common.ready import announce_ready
from lodestream_common.request_log import LogSample
from lodestream_common.tls import FollowedPem, Pem, TlsFiles, check_plain_text
from lodestream_common.waiting import finishes_before

_log = structlog.get_logger(__name__)

SERVICES = (
    generate_pb.DESCRIPTOR.services_by_name["GenerateService"].full_name,
    model_pb.DESCRIPTOR.services_by_name["ModelService"].full_name,
    usage_pb.DESCRIPTOR.services_by_name["UsageService"].full_name,
)

_WAITING_MESSAGES = 16
"""How many messages of the largest size may wait for a worker, in all."""
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
    """The service on its address, from binding it until the last answer is sent."""

    def __init__(self, config: ServiceConfig, shared: Parts | None = None) -> None:
        """Prepare to serve.

        Args:
            config: the settings.
            shared: with the other servers on the same port; None: this one is alone.

        Raises:
            OperatorError: the keys or the certificate cannot be read, `limits_url` is malformed, or a server
                without keys or without TLS would listen beyond loopback.

        """
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
        """Where the metrics are served; None: nowhere."""
        return self.accounting.metrics_address

    def _reading(self) -> Reading | None:
        """How the service is now, for a scrape."""
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


def server_credentials(certificates: FollowedPem) -> grpc.ServerCredentials:
    """Make credentials with which each new connection gets the newest certificate; open ones keep theirs.

    With authorities, clients must present a certificate that one of them issued.
    """

    def configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([pem.pair], pem.authorities)

    used = certificates.current

    def newest() -> grpc.ServerCertificateConfiguration | None:
        """None: the one of before. The core calls this for each handshake, on a thread of its own."""
        nonlocal used
        if certificates.current is used:
            return None
        used = certificates.current
        return configuration(used)

    must_present = used.authorities is not None
    return grpc.dynamic_ssl_server_credentials(
        configuration(used),
        newest,  # type: ignore[arg-type]  # None is documented: no change
        require_client_authentication=must_present,
    )


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


KEEPALIVE_TIME_MS = 5_000
"""Milliseconds between pings of a silent connection, which detect callers that vanished."""
KEEPALIVE_TIMEOUT_MS = 5_000
MIN_CLIENT_PING_INTERVAL_MS = 2_000
"""Least milliseconds between pings of a client, with or without running calls; more frequent pings end the
connection with `too_many_pings`. Our own client pings every 5 s."""
MAX_CONNECTION_IDLE_MS = 75_000
"""How long a connection without calls stays open; the bridge uses the same time."""

MAX_CONCURRENT_STREAMS = 100
"""Most open calls of one connection; further calls wait in the client."""
MAX_PENDING_CALLS = 10_000
"""Most calls that wait until the server accepts them, of all connections. The gRPC core drops further ones as
CANCELLED, whoever made them. Its default of 1000 is less than a burst of a few well-behaved callers."""


def channel_options(
    max_message_bytes: int, header_timeout: float, max_connections: int, *, is_shared: bool = False
) -> Sequence[tuple[str, int]]:
    """The options of the gRPC server.

    Args:
        max_message_bytes: largest request that is accepted.
        header_timeout: seconds that a connection may take to set up HTTP/2.
        max_connections: most open connections; the gRPC core closes further ones without an error.
        is_shared: whether other processes of this service listen on the same port.

    Answers have no limit here: a request whose answer could be too large is refused before it is computed
    (`rpc/services.py`). The limit on received messages is twice the documented one, so that a request
    moderately over it gets our error with the numbers, and only a far larger one gets that of gRPC.
    """
    return (
        ("grpc.max_receive_message_length", 2 * max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # Without this the core waits a minute for the answer to a ping, whatever the keepalive timeout is.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_CLIENT_PING_INTERVAL_MS),
        ("grpc.server_handshake_timeout_ms", round(header_timeout * 1000)),
        ("grpc.http2.settings_timeout", round(header_timeout * 1000)),
        ("grpc.max_connection_idle_ms", MAX_CONNECTION_IDLE_MS),
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING_CALLS),
        # Otherwise two services could listen on one port, and connections would reach either.
        ("grpc.so_reuseport", int(is_shared)),
    )
