"""Heads of requests, as RFC 9110 and RFC 9112 want them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rest_bridge.errors import ApiError, invalid

HEAD_LIMIT = 64 * 1024
"""Most bytes of a request line and its headers together; of the trailers of a body as well."""
_VERSIONS = ("1.0", "1.1")
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
"""`uri-host [":" port]` (RFC 9110, section 7.2); empty where the target has no authority."""
_OFFERS = (b"upgrade", b"http2-settings")
"""What an offer to upgrade consists of (RFC 7540, section 3.2), beside its names in `Connection`."""

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, and values, in the order of their arrival."""


def check_head(version: str, url: bytes, headers: Headers) -> None:
    """See that a request can be understood in one way only.

    Raises:
        ApiError: it is too large, of another version, without a Host or with two, or coded unlike any other.

    """
    if version not in _VERSIONS:
        raise invalid(None, "The request is neither HTTP/1.1 nor HTTP/1.0.")
    if len(url) + sum(len(name) + len(value) + 4 for name, value in headers) > HEAD_LIMIT:
        raise too_large_head()
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise invalid("host", "A request has exactly one Host header.")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise invalid("host", "The Host header is no host, or host:port.")
    if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in headers):
        raise invalid("transfer-encoding", "The only transfer coding that is taken is chunked.")


def too_large_head() -> ApiError:
    """Make the refusal of a head over the limit."""
    return invalid(None, f"The request's head is larger than the limit of {HEAD_LIMIT} bytes.")


def without_offer(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """The same head without its offer to upgrade."""
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode("ascii"))]
    for name, value in headers:
        if name in _OFFERS:
            continue
        kept = _without_offers(value) if name == b"connection" else value
        if kept or name != b"connection":
            lines.append(name + b": " + kept)
    return b"\r\n".join([*lines, b"", b""])


def _without_offers(connection: bytes) -> bytes:
    options = (option.strip() for option in connection.split(b","))
    return b", ".join(option for option in options if option.lower() not in _OFFERS)
