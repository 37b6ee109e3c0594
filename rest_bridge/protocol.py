"""What the HTTP server does before there is a request that the app could answer."""

from __future__ import annotations

import re
import uuid
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rest_bridge.errors import error_body, invalid

HEAD_LIMIT = 64 * 1024
"""Most bytes of a request line and its headers together."""
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class BridgeProtocol(HttpToolsProtocol):
    """Refuses what is no HTTP, and heads without end, with the same body as every other refusal.

    Offers to upgrade are hidden from the parser, which would take the body of a request that makes one for
    another protocol's. Java's own client offers HTTP/2 with its first request.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._in_body = False
        self._head_size = 0

    def on_message_begin(self) -> None:
        """Count from here ..."""
        self._in_head = True
        self._head_size = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """... to here."""
        self._in_head = False
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Between here and the next beginning nothing is expected."""
        self._in_body = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Take what arrived."""
        super().data_received(data if self._in_body or b"pgrade" not in data else _without_upgrade(data))
        if self._in_head and not self.transport.is_closing():
            self._head_size += len(data)
            if self._head_size > HEAD_LIMIT:
                self.send_400_response(f"The request's head is larger than the limit of {HEAD_LIMIT} bytes.")

    def send_400_response(self, msg: str) -> None:
        """Refuse, and close the connection."""
        content = orjson.dumps(error_body(invalid(None, msg)))
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(content)}\r\n"
            f"x-request-id: {uuid.uuid4().hex}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + content)
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-declined-upgrade:", head) + end + rest
