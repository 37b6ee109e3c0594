"""The connections of the gRPC server: their options, their certificates, and the handler of each call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from inference_service.errors import UnknownMethod
from inference_service.rpc.call import RunningCalls
from lodestream_common.keys import Level
from lodestream_common.tls import FollowedPem, Pem

KEEPALIVE_TIME_MS = 5_000
"""Milliseconds between pings of a silent connection, which detect callers that vanished."""
KEEPALIVE_TIMEOUT_MS = 5_000
MIN_CLIENT_PING_INTERVAL_MS = 2_000
"""Least milliseconds between pings of a client, with or without running calls; more frequent pings end the
connection with `too_many_pings`. Our own client pings every 5 s."""
MAX_CONNECTION_IDLE_MS = 75_000
"""Milliseconds that a connection without calls stays open; the bridge uses the same time."""

MAX_CONCURRENT_STREAMS = 100
"""Most open calls of one connection; further calls wait in the client."""
MAX_PENDING_CALLS = 10_000
"""Most calls that wait until the server accepts them, of all connections. The gRPC core drops further ones as
CANCELLED, whoever made them. Its default of 1000 is less than a burst of a few well-behaved callers."""

_OWN = ("/lodestream.inference.", "/trtllm.TrtllmService/")
"""The handlers of these methods check their callers, each for the level that the method needs."""
_HEALTH = "/grpc.health.v1.Health/"
"""Health checks need no key."""

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]]


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


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Checks the keys of calls to reflection, and refuses unknown methods with our own status."""

    def __init__(self, calls: RunningCalls) -> None:
        self._calls = calls

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        if handler is None:
            # The caller chose the name freely, so it does not go into the log.
            return self._calls.refused("unknown", UnknownMethod())
        if not method.startswith((*_OWN, _HEALTH)):
            return self._calls.observed(handler, method.rpartition("/")[2], Level.READ_ONLY)
        return handler
