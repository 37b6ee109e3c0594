"""Connections to the service: targets, channel options, and the pool of connections."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypedDict, TypeVar

import grpc
from grpc import aio

TARGET = "LODESTREAM_TARGET"
API_KEY = "LODESTREAM_API_KEY"
DEFAULT_TARGET = "127.0.0.1:50051"
"""The address on which `lodestream serve` listens by default."""


class ClientOptions(TypedDict, total=False):
    """The keywords of `AsyncClient` and `Client` beside target and key; the classes describe them."""

    timeout: float | None
    retries: int
    retry_timeout: float
    max_message_bytes: int
    tls: TlsConfig | None


def target_from_environment() -> str:
    """The target in LODESTREAM_TARGET; the service's default address where there is none."""
    return os.environ.get(TARGET) or DEFAULT_TARGET


def key_from_environment() -> str | None:
    """The key in LODESTREAM_API_KEY; None where there is none."""
    return os.environ.get(API_KEY) or None


DEFAULT_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""The service's own default for a request."""

KEEPALIVE_TIME_MS = 5_000
"""Silence after which a ping is sent, to find a peer that disappeared. The service permits one ping every 2
s, with or without a call, so it never ends a connection with `too_many_pings`, however long a prefill
takes."""
KEEPALIVE_TIMEOUT_MS = 5_000
"""Time after which an unanswered ping ends the connection and every call on it."""
FIRST_RECONNECT_MS = 100
"""Pause before the first attempt to connect again: a service that restarts may be back at once."""
LONGEST_RECONNECT_MS = 1_000
"""Longest pause between attempts, so that a service is found within about 1 s of its return. The default of
the gRPC core is two minutes."""
CONNECT_TIMEOUT_MS = 5_000
"""Time after which an address that does not answer is given up; the default of the gRPC core is 20 s."""
MAX_METADATA_BYTES = 64 * 1024
"""Size of received metadata. An error lists every wrong parameter in its trailing metadata, and the default
limit of the gRPC core is 8 KiB."""

_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_LOOPBACK = re.compile(r"(^|[:/])(127\.|localhost(:|$)|\[::1\])")

Option = tuple[str, str | int]


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """TLS of the connections to the service. All values are PEM."""

    root_certificates: bytes | None = None
    """Certificates of the trusted authorities; None: those that gRPC brings."""
    certificate_chain: bytes | None = None
    """The client's own certificate, if the service demands one."""
    private_key: bytes | None = None
    """The private key of the client's certificate."""
    server_name: str | None = None
    """The expected name in the service's certificate; None: the host of the target."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Make gRPC's credentials of these values."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


def check_target(target: str) -> str:
    """Return the target unchanged.

    Raises:
        ValueError: it is empty, or a URL, which gRPC would try to resolve as a name.

    """
    if not target or target.startswith(("http:", "https:", "grpc:", "grpcs:")):
        raise ValueError("target must be host:port, dns:///host:port or unix:/path, without http://.")
    return target


def channel_options(target: str, max_message_bytes: int, tls: TlsConfig | None) -> list[Option]:
    """Make the channel arguments of one client."""
    options: list[Option] = [
        ("grpc.max_send_message_length", max_message_bytes),
        # An answer with log probabilities can have tens of megabytes; the service limits it.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        # With this table the core may reuse the timeout header of an earlier call that is up to 3 % longer.
        # The service, which ends a generation a little before its deadline, would then end it after the
        # caller's.
        ("grpc.http2.hpack_table_size.encoder", 0),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # Without this the core waits up to a minute for the answer to a ping, whatever the option above says.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # With this probe the core would enlarge the flow-control window, and buffer megabytes of an unread
        # stream.
        ("grpc.http2.bdp_probe", 0),
        # A long prefill sends no data, and pings must continue.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_MS),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_MS),
        # The core retries only calls that never reached the service's code: those over the limit of open
        # calls, and those on an idle connection that was just closed. `RetryPolicy` decides about all others.
        ("grpc.enable_retries", 1),
        # Every address behind a name is used, so that replicas share the load.
        ("grpc.service_config", _SERVICE_CONFIG),
        # New replicas are found at the next reconnect; the default is half a minute later.
        ("grpc.dns_min_time_between_resolutions_ms", LONGEST_RECONNECT_MS),
        # Two clients never share a connection: closing or stalling one does not affect the other.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if _is_local(target):
        # A proxy from the environment cannot reach the loopback of this machine.
        options.append(("grpc.enable_http_proxy", 0))
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def open_async(target: str, max_message_bytes: int, tls: TlsConfig | None) -> aio.Channel:
    """Open a channel on the running loop; it connects with the first call."""
    options = channel_options(target, max_message_bytes, tls)
    if tls is None:
        return aio.insecure_channel(target, options)
    return aio.secure_channel(target, tls.credentials(), options)


def open_sync(target: str, max_message_bytes: int, tls: TlsConfig | None) -> grpc.Channel:
    """Open a blocking channel; it connects with the first call."""
    options = channel_options(target, max_message_bytes, tls)
    if tls is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, tls.credentials(), options)


def _is_local(target: str) -> bool:
    return target.startswith("unix:") or _LOOPBACK.search(target) is not None


CALLS_PER_CONNECTION = 64
"""Open calls on every connection at which one more connection is opened. The service allows 100 calls a
connection, and a cancelled call counts until the service has processed the cancellation. A call over the
limit would wait in the gRPC core."""
MAX_CONNECTIONS = 32
"""Most connections of one client to each replica; further calls share them."""


class CountsCalls(Protocol):
    """A connection that counts its open calls."""

    open_calls: int


ConnectionT = TypeVar("ConnectionT", bound=CountsCalls)


RETIRED_POLL = 0.5
"""Seconds between two checks whether the calls of a retired connection have ended."""


class Pool(Generic[ConnectionT]):
    """Opens connections and picks the one with the fewest open calls. Safe to use from any thread.

    Args:
        connect: opens one more connection.

    """

    def __init__(self, connect: Callable[[], ConnectionT]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._opened: list[ConnectionT] = []

    @property
    def opened(self) -> tuple[ConnectionT, ...]:
        """Every open connection."""
        with self._lock:
            return tuple(self._opened)

    def begin(self) -> ConnectionT:
        """Pick a connection for one call; `end` must follow."""
        with self._lock:
            best = min(self._opened, key=lambda connection: connection.open_calls, default=None)
            if best is None or (
                best.open_calls >= CALLS_PER_CONNECTION and len(self._opened) < MAX_CONNECTIONS
            ):
                best = self._connect()
                self._opened.append(best)
            best.open_calls += 1
            return best

    def retire(self) -> tuple[ConnectionT, ...]:
        """Take every connection out: further calls open new ones. Running calls keep theirs."""
        with self._lock:
            retired, self._opened = tuple(self._opened), []
        return retired

    def end(self, connection: ConnectionT) -> None:
        """Count a call as over."""
        with self._lock:
            connection.open_calls -= 1
