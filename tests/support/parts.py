"""Runs third-party programs, which `make parts` installs from Debian."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

REQUIRED = "TEST_PARTS"
"""The environment variable that CI sets to `required`, so that a missing part is a failure."""


def part(program: str, *directories: str) -> str:
    """The path of a program. Without it the test is skipped, or fails where parts are required."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *directories])
    if found := shutil.which(program, path=path):
        return found
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(f"{program} is not installed; run: make parts")
    pytest.skip(f"{program} is not installed; run: make parts")


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Prometheus:
    """A running Prometheus that scrapes every second."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression. Return the samples of the vector.

        Raises:
            AssertionError: Prometheus does not take it.

        """
        reply = (await self._http.get("/api/v1/query", params={"query": expression})).json()
        assert reply["status"] == "success", f"{expression}: {reply}"
        found: list[dict[str, Any]] = reply["data"]["result"]
        return found

    async def query_range(self, expression: str, start: float) -> list[dict[str, Any]]:
        """Evaluate an expression for each second since `start`, a Unix time; its series."""
        params: dict[str, str | float] = {"query": expression, "start": start, "end": time.time(), "step": 1}
        reply = (await self._http.get("/api/v1/query_range", params=params)).json()
        assert reply["status"] == "success", f"{expression}: {reply}"
        found: list[dict[str, Any]] = reply["data"]["result"]
        return found

    async def value(self, expression: str) -> float:
        """The value of an expression with at most one sample; 0 if it has none."""
        found = await self.query(expression)
        return float(found[0]["value"][1]) if found else 0.0

    async def until(self, expression: str, seconds: float = 30.0) -> list[dict[str, Any]]:
        """Wait until an expression has a sample."""
        async with asyncio.timeout(seconds):
            while True:
                if found := await self.query(expression):
                    return found
                await asyncio.sleep(0.2)


@asynccontextmanager
async def running_prometheus(
    home: Path, targets: dict[str, str], rules: Path | None = None
) -> AsyncIterator[Prometheus]:
    """Run a Prometheus that scrapes `targets`, job → address, until the context ends."""
    jobs = "".join(
        f"  - job_name: {job}\n    static_configs: [{{targets: ['{address}']}}]\n"
        for job, address in targets.items()
    )
    config = home / "prometheus.yml"
    rule_files = f"rule_files: ['{rules}']\n" if rules else ""
    config.write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n{rule_files}scrape_configs:\n{jobs}"
    )
    port = free_port()
    process = _start(
        part("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={home / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            await _answers(http, "/-/ready", process)
            yield Prometheus(http)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


@asynccontextmanager
async def running_postgres() -> AsyncIterator[Postgres]:
    """Run a PostgreSQL with an empty database until the context ends."""
    initdb, server = _postgres_part("initdb"), _postgres_part("postgres")
    # It refuses to run as root, and another user cannot enter the directories of tests.
    owner = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="lodestream-postgres-") as home:
        if owner is not None:
            shutil.chown(home, owner)
        options = ("--username=lodestream", "--auth=trust", "--encoding=UTF8", "--no-sync")
        await asyncio.to_thread(
            subprocess.run,
            [initdb, f"--pgdata={home}/data", *options],
            user=owner,
            cwd=home,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        postgres = Postgres(server, home, free_port(), owner)
        await postgres.start()
        try:
            yield postgres
        finally:
            await postgres.stop()


def _postgres_part(program: str) -> str:
    """Debian keeps the programs of each version of PostgreSQL in a directory of its own."""
    directories = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    return part(program, *directories)


class Postgres:
    """A PostgreSQL that can be stopped and started again."""

    def __init__(self, program: str, home: str, port: int, owner: str | None) -> None:
        self._command = [
            program,
            *("-D", f"{home}/data", "-p", str(port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"),
        ]
        self._home, self._owner = home, owner
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://lodestream@127.0.0.1:{port}/postgres"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        import psycopg

        self._process = self._spawn()
        async with asyncio.timeout(30):
            while True:
                assert self._process.poll() is None, f"it ended with status {self._process.returncode}"
                with contextlib.suppress(psycopg.OperationalError):
                    await (await psycopg.AsyncConnection.connect(self.url)).close()
                    return
                await asyncio.sleep(0.1)

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            user=self._owner,
            cwd=self._home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def stop(self) -> None:
        """Stop it at once; connections break."""
        if self._process is not None:
            # The fast shutdown.
            self._process.send_signal(signal.SIGINT)
            await asyncio.to_thread(self._process.wait, 20)


@asynccontextmanager
async def running_redis(port: int | None = None) -> AsyncIterator[int]:
    """Run a Redis without persistence until the context ends; yield its port."""
    port = port or free_port()
    options = ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", str(port))
    process = _start(part("redis-server"), *options, "--loglevel", "warning")
    try:
        async with asyncio.timeout(30):
            while True:
                assert process.poll() is None, f"it ended with status {process.returncode}"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield port
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


def _start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


async def _answers(http: httpx.AsyncClient, path: str, process: subprocess.Popen[Any]) -> None:
    async with asyncio.timeout(30):
        while True:
            assert process.poll() is None, f"it ended with status {process.returncode}"
            try:
                if (await http.get(path)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
