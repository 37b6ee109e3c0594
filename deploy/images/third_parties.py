"""A Redis, a PostgreSQL and a receiver of traces on the loopback, beside the images that are tried.

The programs are Debian's; `make parts` installs them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECONDS = 60


def program(name: str) -> str:
    """The path of a program; exits where it is not installed."""
    # Debian keeps the programs of each version of PostgreSQL in a directory of its own.
    directories = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *directories])
    found = shutil.which(name, path=path)
    if found is None:
        raise SystemExit(f"images: {name} is not installed; run: make parts")
    return found


@contextmanager
def running_redis(port: int) -> Iterator[str]:
    """Run a Redis until the context ends; its URL."""
    options = ["--save", "", "--bind", "127.0.0.1", "--port", str(port), "--loglevel", "warning"]
    with _running([program("redis-server"), *options], port):
        yield f"redis://127.0.0.1:{port}/0"


def redis_ran_scripts(port: int) -> bool:
    """Whether a Redis was asked to run a script, as each count of a quota does."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        connection.sendall(b"INFO commandstats\r\nQUIT\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return b"cmdstat_evalsha:" in answer


@contextmanager
def running_postgres(port: int) -> Iterator[str]:
    """Run a PostgreSQL with an empty database until the context ends; its URL."""
    with tempfile.TemporaryDirectory() as home:
        # It refuses to run as root.
        shutil.chown(home, "postgres")
        make = [program("initdb"), f"--pgdata={home}/data", "--username=try", "--auth=trust", "--no-sync"]
        subprocess.run(  # noqa: S603
            make, user="postgres", cwd=home, check=True, stdout=subprocess.DEVNULL
        )
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        options = [word for setting in settings for word in ("-c", setting)]
        serve = [program("postgres"), "-D", f"{home}/data", "-p", str(port), *options]
        with _running(serve, port, user="postgres", cwd=home):
            yield f"postgresql://try@127.0.0.1:{port}/postgres"


@contextmanager
def receiving_traces() -> Iterator[tuple[str, set[str]]]:
    """Receive traces until the context ends; the URL, and the names of the services that sent some."""
    senders: set[str] = set()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            senders.update(
                name for name in ("lodestream-service", "lodestream-bridge") if name.encode() in body
            )
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing: the log is for what goes wrong."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", senders
    finally:
        server.shutdown()


@contextmanager
def _running(
    command: list[str], port: int, user: str | None = None, cwd: str | None = None
) -> Iterator[None]:
    """Run a server, from when it listens until the context ends."""
    process = subprocess.Popen(  # noqa: S603
        command, user=user, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise SystemExit(f"images: {command[0]} does not listen on port {port}")
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)
