"""How the client connects: targets, keys from the environment, and the numbers of its channels."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TypedDict

import grpc
from grpc import aio

TARGET = "LODESTREAM_TARGET"
API_KEY = "LODESTREAM_API_KEY"
DEFAULT_TARGET = "127.0.0.1:50051"
"""Where `lodestream serve` listens unless it is told otherwise."""


class ClientOptions(TypedDict, total=False):
    """What both clients take beside target and key, as they describe it."""

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
"""A ping after this much silence finds a peer that vanished without a word. The service permits one every
2 s, with or without a call, so no prefill is so long that it earns `too_many_pings`."""
KEEPALIVE_TIMEOUT_MS = 5_000
"""An unanswered ping ends the connection, and with it every call on it, after this long."""
FIRST_RECONNECT_MS = 100
"""A restarted service is looked for at once ..."""
LONGEST_RECONNECT_MS = 1_000
"""... and found within about a second of its return; the gRPC core alone would wait for up to two minutes."""
CONNECT_TIMEOUT_MS = 5_000
"""An address that swallows packets is given up after this long, not after the core's 20 s."""
MAX_METADATA_BYTES = 64 * 1024
"""A refusal lists every parameter that is wrong in its trailing metadata; the core's limit is 8 KiB."""

_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_LOOPBACK = re.compile(r"(^|[:/])(127\.|localhost(:|$)|\[::1\])")

Option = tuple[str, str | int]


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """TLS towards the service. Everything is PEM; `TlsConfig()` trusts the roots that gRPC ships."""

    root_certificates: bytes | None = None
    """The authorities to trust; None: those that gRPC ships."""
    certificate_chain: bytes | None = None
    """The client's own certificate, where the service wants one."""
    private_key: bytes | None = None
    """The key of that certificate."""
    server_name: str | None = None
    """The name to expect in the service's certificate, where it is not the target's."""

    def credentials(self) -> grpc.ChannelCredentials:
        """The same for gRPC."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


def check_target(target: str) -> str:
    """The target itself.

    Raises:
        ValueError: it is empty, or a URL, which gRPC would take for a name to resolve.

    """
    if not target or target.startswith(("http:", "https:", "grpc:")):
        raise ValueError("target must be host:port, dns:///host:port or unix:/path, without http://.")
    return target


def channel_options(target: str, max_message_bytes: int, tls: TlsConfig | None) -> list[Option]:
    """The channel arguments of one client."""
    options: list[Option] = [
        ("grpc.max_send_message_length", max_message_bytes),
        # A whole answer with log probabilities has tens of megabytes; the service bounds it.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        # Without this table the core cannot tell the service a longer timeout, up to 3 %, that another
        # call had: the service would end a little before a deadline which is past that of the caller.
        ("grpc.http2.hpack_table_size.encoder", 0),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # The core waits for the answer to a ping for a minute of its own, whatever the line before says.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # The core would let a stream that nobody reads fill megabytes, as fast connections could use.
        ("grpc.http2.bdp_probe", 0),
        # A long prefill sends no data; pings go on all the same.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_MS),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_MS),
        # Only for calls that the service surely never saw, as those it refused because too many were open, or
        # that met the end of an idle connection. `retry.py` decides about the others, and counts.
        ("grpc.enable_retries", 1),
        # Every address behind a name is used, so that replicas share the load.
        ("grpc.service_config", _SERVICE_CONFIG),
        # Replicas that come and go are noticed with the reconnect, not half a minute later.
        ("grpc.dns_min_time_between_resolutions_ms", LONGEST_RECONNECT_MS),
        # Two clients are two connections: closing or stalling one leaves the other alone.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if _is_local(target):
        # A proxy of the environment cannot reach this machine's own loopback.
        options.append(("grpc.enable_http_proxy", 0))
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def open_async(target: str, max_message_bytes: int, tls: TlsConfig | None) -> aio.Channel:
    """A channel on the running loop; it connects with the first call."""
    options = channel_options(target, max_message_bytes, tls)
    if tls is None:
        return aio.insecure_channel(target, options)
    return aio.secure_channel(target, tls.credentials(), options)


def open_sync(target: str, max_message_bytes: int, tls: TlsConfig | None) -> grpc.Channel:
    """A blocking channel; it connects with the first call."""
    options = channel_options(target, max_message_bytes, tls)
    if tls is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, tls.credentials(), options)


def _is_local(target: str) -> bool:
    return target.startswith("unix:") or _LOOPBACK.search(target) is not None
