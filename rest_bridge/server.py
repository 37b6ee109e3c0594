"""The bridge's process: it binds its address, serves, and drains."""

from __future__ import annotations

import asyncio
import gc
import math
import resource
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import cast

import structlog
import uvicorn

from lodestream_common import tracing
from lodestream_common.address import Address, cannot_listen, check_open_address, parse_address
from lodestream_common.errors import SettingError
from lodestream_common.failed_keys import FailedKeys
from lodestream_common.keys import Keyring
from lodestream_common.ready import announce_ready
from lodestream_common.tls import CHECK_INTERVAL, FollowedHttps, TlsFiles, check_plain_text
from lodestream_common.tracing import Tracer
from rest_bridge.app import create_app
from rest_bridge.config import BridgeConfig
from rest_bridge.limits import IDLE_SECONDS, ConnectionCap, Limits
from rest_bridge.protocol import BridgeProtocol

_BACKLOG = 2048
_CHECK_TICKS = 5
"""Ticks of uvicorn, a tenth of a second each, between two checks of the connections' times."""
_KERNEL_BUFFER = 16 * 1024
"""Bytes that the kernel buffers for one connection; its default is megabytes. A large buffer fills at once
and empties slowly: the bridge would rarely read from the service, which then treats it as stalled."""
_OTHER_FILES = 256
"""File descriptors that are not connections."""
_ABORT_GRACE_SECONDS = 1.0
"""Seconds in which aborted requests can send their errors."""
SETTING = "http_address"
"""The setting that names the address."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that a server shares with the other workers on its port."""

    cap: ConnectionCap
    failed_keys: FailedKeys
    is_shared: bool = False
    """Whether others listen on the same port."""


def run(
    config: BridgeConfig, on_ready: Callable[[str], None] = announce_ready, parts: Parts | None = None
) -> int:
    """Serve until a signal arrives, then finish running requests within `config.shutdown_grace` seconds.

    Args:
        config: the settings.
        on_ready: is called with the bound `host:port` once requests are answered.
        parts: shared with other workers; None: there are none.

    Returns:
        0, the exit status after a signal.

    Raises:
        OperatorError: a setting is wrong, or the address cannot be bound.

    """

    def ready(address: str) -> None:
        # The objects that exist by now stay, so the garbage collector can skip them.
        gc.collect()
        gc.freeze()
        on_ready(address)

    tracer = tracing.start("bridge")
    try:
        server = make_server(config, ready, parts, tracer)
        server.run(sockets=[server.socket])
    finally:
        if tracer is not None:
            tracer.close()
    return 0


def check(config: BridgeConfig) -> None:
    """Check the settings without serving.

    Raises:
        OperatorError: one is wrong.

    """
    _checked_address(config)
    create_app(config)


def _checked_address(config: BridgeConfig) -> tuple[Address, bool]:
    """The address to bind, and whether there are keys."""
    address = parse_address(config.http_address, SETTING)
    if address.is_unix:
        raise SettingError(f"{SETTING}: {address} is not host:port (as 127.0.0.1:8000)")
    requires_key = Keyring(config.keys_file).requires_key
    check_open_address(address, requires_key, SETTING)
    check_plain_text(
        address,
        allowed=config.insecure or certificate_of(config) is not None,
        setting=SETTING,
        remedy="--tls-certificate and --tls-key",
    )
    return address, requires_key


def make_server(
    config: BridgeConfig,
    on_ready: Callable[[str], None],
    parts: Parts | None = None,
    tracer: Tracer | None = None,
) -> BridgeServer:
    """Make a server that is bound to its address, but does not serve yet.

    Raises:
        OperatorError: as `run`.

    """
    address, requires_key = _checked_address(config)
    parts = parts or Parts(ConnectionCap(affordable(config.max_connections)), FailedKeys())
    certificate = certificate_of(config)
    settings = _uvicorn_config(config, parts, tracer)
    try:
        listener = listen(address, is_shared=parts.is_shared)
    except OSError as error:
        raise cannot_listen(address, SETTING, error) from error
    bound = Address(address.host, listener.getsockname()[1])

    def started() -> None:
        _log.info("bridge_listening", address=str(bound), service=config.grpc_address)
        if not requires_key:
            _log.warning("no_api_keys", reason="no key exists: anybody on this machine may call")
        on_ready(str(bound))

    tls = None if certificate is None else Tls(certificate, config.header_timeout)
    return BridgeServer(settings, listener, parts.cap, started, tls)


def certificate_of(config: BridgeConfig) -> FollowedHttps | None:
    """Read the bridge's own certificate; None: it speaks plain text.

    Raises:
        OperatorError: see `TlsFiles.read`.

    """
    files = TlsFiles(config.tls_certificate, config.tls_key, None, ("tls_certificate", "tls_key", ""))
    return None if files.certificate is None and files.key is None else FollowedHttps(files)


def listen(address: Address, *, is_shared: bool) -> socket.socket:
    """Bind an address.

    Args:
        address: host and port; port 0 is one of the system's choice.
        is_shared: whether other processes listen on the same port.

    Raises:
        OSError: the address cannot be bound.

    """
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    # A name like localhost has addresses of both families; callers expect IPv4.
    family, *_, place = min(found, key=lambda info: info[0] != socket.AF_INET)
    listener = socket.create_server(place[:2], family=family, backlog=_BACKLOG, reuse_port=is_shared)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # Accepted connections inherit the option.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _KERNEL_BUFFER)
    return listener


def affordable(connections: int) -> int:
    """The number of connections, up to `connections`, that the limit of open files allows once raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    if soft < needed and soft != resource.RLIM_INFINITY:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    allowed = max(1, soft - _OTHER_FILES)
    _log.warning("open_files_limit_low", max_connections=allowed, needed=connections, files=soft)
    return allowed


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS of the bridge's connections."""

    certificate: FollowedHttps
    handshake_timeout: float
    """Seconds that a handshake may take."""


class BridgeServer(uvicorn.Server):
    """uvicorn, bound to `socket`. The first signal drains it, the second one ends it at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        cap: ConnectionCap,
        on_started: Callable[[], None],
        tls: Tls | None = None,
    ) -> None:
        super().__init__(config)
        self._cap = cap
        self.socket = listener
        self._on_started = on_started
        self._tls = tls
        self._following: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve, and report it."""
        if self._tls is None:
            await super().startup(sockets)
        else:
            await self._start_tls(self._tls)
        self._on_started()

    async def _start_tls(self, tls: Tls) -> None:
        """Start as uvicorn does. uvicorn itself sets no timeout for handshakes; asyncio's is a minute."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(1)
        make_protocol = partial(
            cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        listening = await asyncio.get_running_loop().create_server(
            make_protocol,
            sock=self.socket,
            ssl=tls.certificate.context,
            ssl_handshake_timeout=tls.handshake_timeout,
            backlog=_BACKLOG,
        )
        self.servers = [listening]
        self._following = asyncio.create_task(_follow(tls.certificate), name="certificate-watch")
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Check the connections; True: the server must end."""
        if counter % _CHECK_TICKS == 0:
            self._check_connections()
        return await super().on_tick(counter)

    def _check_connections(self) -> None:
        now = asyncio.get_running_loop().time()
        connections = cast("set[BridgeProtocol]", self.server_state.connections)
        for connection in tuple(connections):
            connection.check_time(now)
        self._cap.update(len(connections))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, wait for running requests within the grace, then abort them."""
        _log.info(
            "draining", requests=len(self.server_state.tasks), grace=self.config.timeout_graceful_shutdown
        )
        if self._following is not None:
            self._following.cancel()
        await super().shutdown(sockets)
        for task in self.server_state.tasks:
            task.cancel()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_ABORT_GRACE_SECONDS)
        _log.info("stopped")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal. Unlike uvicorn's method, this does not raise it again after a clean end."""
        self.force_exit = self.should_exit
        self.should_exit = True


async def _follow(certificate: FollowedHttps) -> None:
    while True:
        await asyncio.sleep(CHECK_INTERVAL)
        certificate.refresh()


def _uvicorn_config(config: BridgeConfig, parts: Parts, tracer: Tracer | None) -> uvicorn.Config:
    protocol = cast("type[asyncio.Protocol]", partial(BridgeProtocol, Limits.of(config), parts.cap))
    return uvicorn.Config(
        create_app(config, parts.failed_keys, tracer),
        http=protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=math.ceil(config.shutdown_grace),
    )
