"""A simulated hub on loopback, with the parts that a download of one file needs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(slots=True)
class StandInHub:
    """The files by `owner/repo/path`, and a record of the requests."""

    files: dict[str, bytes] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main", COMMIT)
    token: str | None = None
    """The token that every request must have, if set."""
    gated: bool = False
    is_hub: bool = True
    """Whether the headers of a file are those of a hub."""
    sent: float = 1.0
    """The share of a body that is sent before the connection is closed."""
    downloads: int = 0
    url: str = ""


@contextmanager
def running_hub() -> Iterator[StandInHub]:
    hub = StandInHub()

    class Handler(_Handler):
        stand_in = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandInHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        refusal = self._refusal()
        if refusal:
            self._refuse(*refusal)
            return
        content = self._content() or b""
        self.send_response(200)
        if self.stand_in.is_hub:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.stand_in.downloads += 1
            self.wfile.write(content[: int(len(content) * self.stand_in.sent)])
            self.close_connection = self.stand_in.sent < 1

    def _refusal(self) -> tuple[int, str] | None:
        hub = self.stand_in
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return (403, "GatedRepo") if hub.gated else (401, "RepoNotFound")
        repository, revision, _ = self._parts()
        if not any(name.startswith(f"{repository}/") for name in hub.files):
            return 404, "RepoNotFound"
        if revision not in hub.revisions:
            return 404, "RevisionNotFound"
        return None if self._content() is not None else (404, "EntryNotFound")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _parts(self) -> tuple[str, str, str]:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        return repository, revision, file

    def _content(self) -> bytes | None:
        repository, _, file = self._parts()
        return self.stand_in.files.get(f"{repository}/{file}")

    def log_message(self, *_: object) -> None:
        """Log nothing."""
