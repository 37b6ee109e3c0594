"""The bridge as a process: binds, serves, drains."""

from __future__ import annotations

import asyncio
import gc
import math
import resource
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import cast

import structlog
import uvicorn

from lodestream_common.address import Address, cannot_listen, check_open_address, parse_address
from lodestream_common.errors import SettingError
from lodestream_common.keys import Keyring
from lodestream_common.ready import announce_ready
from rest_bridge.app import create_app
from rest_bridge.config import BridgeConfig
from rest_bridge.limits import IDLE_SECONDS, ConnectionCap, Limits
from rest_bridge.protocol import BridgeProtocol

_BACKLOG = 2048
_LOOK_EVERY = 5
"""Ticks of uvicorn, a tenth of a second each, between two looks at the connections."""
_KERNEL_BUFFER = 16 * 1024
"""Bytes that the kernel keeps unsent for one connection; by itself it would take megabytes. With more, a slow
reader would be written to too seldom, and the service would take it for one that stalls."""
_OTHER_FILES = 256
"""Descriptors beside those of connections."""
_ABORT_GRACE_SECONDS = 1.0
"""Seconds that aborted requests get to tell their callers."""
_SETTING = "http_address"

_log = structlog.stdlib.get_logger(__name__)


def run(config: BridgeConfig, on_ready: Callable[[str], None] = announce_ready) -> int:
    """Serve until a signal comes, then finish what runs within `config.shutdown_grace` seconds.

    Args:
        config: the settings.
        on_ready: is told the bound `host:port` once requests are answered.

    Returns:
        0, the exit status of a server that was told to end.

    Raises:
        OperatorError: a setting is wrong, or the address cannot be bound.

    """

    def ready(address: str) -> None:
        # What exists by now stays: the collector need not look at it ever again.
        gc.collect()
        gc.freeze()
        on_ready(address)

    server = make_server(config, ready)
    server.run(sockets=[server.socket])
    return 0


def make_server(config: BridgeConfig, on_ready: Callable[[str], None]) -> BridgeServer:
    """Make a server that is bound, but does not serve yet.

    Raises:
        OperatorError: as `run`.

    """
    address = parse_address(config.http_address, _SETTING)
    if address.is_unix:
        raise SettingError(f"{_SETTING}: {address} is not host:port (as 127.0.0.1:8000)")
    guarded = Keyring(config.keys_file).guarded
    check_open_address(address, guarded, _SETTING)
    cap = ConnectionCap(_affordable(config.max_connections))
    settings = _uvicorn_config(config, cap)
    listener = _listen(address)
    bound = Address(address.host, listener.getsockname()[1])

    def started() -> None:
        _log.info("bridge listening", address=str(bound), service=config.grpc_address)
        if not guarded:
            _log.warning("there are no API keys: everybody on this machine may use the bridge")
        on_ready(str(bound))

    return BridgeServer(settings, listener, cap, started)


def _listen(address: Address) -> socket.socket:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        # A name like localhost has both; callers expect the older one.
        family, *_, place = min(found, key=lambda info: info[0] != socket.AF_INET)
        listener = socket.create_server(place[:2], family=family, backlog=_BACKLOG)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Connections inherit it.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _KERNEL_BUFFER)
        return listener
    except OSError as error:
        raise cannot_listen(address, _SETTING, error) from error


def _affordable(connections: int) -> int:
    """How many of so many connections the limit of open files allows; it is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    allowed = max(1, soft - _OTHER_FILES)
    _log.warning("the limit of open files is low", max_connections=allowed, wanted=connections, files=soft)
    return allowed


class BridgeServer(uvicorn.Server):
    """uvicorn, bound to `socket`, with our drain: a signal ends it gently, the second one at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        cap: ConnectionCap,
        on_started: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._cap = cap
        self.socket = listener
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve, and say so."""
        await super().startup(sockets)
        self._on_started()

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections; True: it is time to end."""
        if counter % _LOOK_EVERY == 0:
            self._look_at_connections()
        return await super().on_tick(counter)

    def _look_at_connections(self) -> None:
        now = asyncio.get_running_loop().time()
        connections = cast("set[BridgeProtocol]", self.server_state.connections)
        for connection in tuple(connections):
            connection.look(now)
        self._cap.look(len(connections))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, wait for requests as long as the grace, then abort them."""
        _log.info(
            "ending", requests=len(self.server_state.tasks), grace=self.config.timeout_graceful_shutdown
        )
        await super().shutdown(sockets)
        for task in self.server_state.tasks:
            task.cancel()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_ABORT_GRACE_SECONDS)
        _log.info("ended")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal. Unlike uvicorn's own, this does not send it again after a clean end."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _uvicorn_config(config: BridgeConfig, cap: ConnectionCap) -> uvicorn.Config:
    protocol = cast("type[asyncio.Protocol]", partial(BridgeProtocol, Limits.of(config), cap))
    return uvicorn.Config(
        create_app(config),
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
