"""The listening side of HTTP/2: sizes, keepalive, and how long connections may be silent."""

from __future__ import annotations

from collections.abc import Sequence

KEEPALIVE_TIME_MS = 5_000
"""How often the server pings a silent connection, to notice callers that vanished."""
KEEPALIVE_TIMEOUT_MS = 5_000
MIN_CLIENT_PING_INTERVAL_MS = 2_000
"""Clients may ping this often, with or without running calls, and never earn `too_many_pings`: our own
client pings every 5 s."""
MAX_CONNECTION_IDLE_MS = 75_000
"""How long a connection without calls stays open; as for HTTP."""

MAX_CONCURRENT_STREAMS = 100
"""Calls of one connection that are open at once; more wait at their caller."""
MAX_PENDING_CALLS = 10_000
"""Calls that wait to be picked up, of all connections. The core drops further ones, whoever made them, as
CANCELLED, and by default from a thousand on: a burst of a few good callers is more."""


def options(max_message_bytes: int, header_timeout: float, max_connections: int) -> Sequence[tuple[str, int]]:
    """The options of the gRPC server.

    Args:
        max_message_bytes: largest request that is taken.
        header_timeout: seconds that a connection may take until HTTP/2 is agreed on.
        max_connections: connections that are open at once; the core closes one more without a word.

    The hard limit on what is received is twice the documented one, so that a request moderately over
    it is refused by us, with the numbers, and only a far larger one by the transport.
    """
    return (
        ("grpc.max_receive_message_length", 2 * max_message_bytes),
        ("grpc.max_send_message_length", 64 * 1024 * 1024),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # The core waits for the answer to a ping for a minute of its own, whatever the line before says.
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
        # Two servers on one port would share its connections by chance.
        ("grpc.so_reuseport", 0),
    )
