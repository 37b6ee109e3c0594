"""The engine's process: starts the frontends, replaces those that crash, loads the engine, and drains."""

from __future__ import annotations

import asyncio
import gc
import math
import multiprocessing
import os
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import structlog
import uvloop
from prometheus_client.multiprocess import mark_process_dead

from inference_service import server
from inference_service.config import ServiceConfig
from inference_service.frontends import frontend
from inference_service.frontends.frontend import FrontendSettings
from inference_service.frontends.host import Frontend, Host
from inference_service.rpc.health import State
from inference_service.scheduling.loaded_engine import EngineFacts
from lodestream_common.address import Address, parse_address, reserve
from lodestream_common.errors import OperatorError, SettingError
from lodestream_common.failed_keys import SharedTimes
from lodestream_common.metrics import SHARED_DIRECTORY
from lodestream_common.ready import announce_ready
from lodestream_common.waiting import finishes_before

_SPAWN = multiprocessing.get_context("spawn")
_RESTART_PAUSE = 1.0
"""Seconds before a frontend that ended by itself is replaced."""
_STOP_SECONDS = 10.0
"""Seconds that a frontend may take to stop, beside the grace of its calls."""
_ABORT_SECONDS = 5.0
"""Seconds that a frontend may take to stop after the second signal."""

_log = structlog.get_logger(__name__)


def run(config: ServiceConfig) -> int:
    """Serve until a signal, in one process or in several; see `server.run`."""
    if config.frontends == 1:
        return server.run(config)
    # Frontends read the variable as they import the metrics library; this process has imported it already.
    with tempfile.TemporaryDirectory(prefix="lodestream-metrics-") as directory:
        os.environ[SHARED_DIRECTORY] = directory
        try:
            return uvloop.run(_serve(config, Path(directory)))
        finally:
            del os.environ[SHARED_DIRECTORY]


async def _serve(config: ServiceConfig, directory: Path) -> int:
    stop, abort = server.listen_to_signals()
    supervisor = Supervisor(config, directory)
    try:
        if not await finishes_before(stop, supervisor.start()):
            return 0
        gc.collect()
        gc.freeze()
        announce_ready(str(supervisor.address))
        died = await finishes_before(stop, supervisor.host.health.died.wait())
        await supervisor.drain(abort)
        return int(died)
    finally:
        await supervisor.stop()
        _log.info("stopped")


@dataclass(slots=True)
class _Process:
    """A running frontend process."""

    process: BaseProcess
    frontend: Frontend
    is_ready: bool = False


class Supervisor:
    """The engine's process and its frontends.

    Args:
        config: the settings.
        directory: where the frontends count their RPCs.

    Raises:
        OperatorError: a setting is wrong, or the port is taken.

    """

    def __init__(self, config: ServiceConfig, directory: Path) -> None:
        self._directory = directory
        self._config = config
        self.host = Host(config, directory)
        self._port, self.address = _reserved(config)
        self._frontend_config = _frontend_config(config, self.address)
        self._failed_keys = SharedTimes.make()
        self._processes: dict[int, _Process] = {}
        self._changed = asyncio.Event()
        """Set whenever a frontend became ready or ended."""
        self._failure: OperatorError | None = None
        self._was_ready = self._is_ending = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the frontends, load the engine, and wait until every frontend answers requests.

        Raises:
            OperatorError: a frontend cannot serve, or the engine cannot be loaded.

        """
        self.host.accounting.open(self.address)
        for number in range(self._config.frontends):
            await self._start(number)
        loading = asyncio.create_task(self.host.load(), name="load")
        try:
            await self._wait_for_frontends(loading)
        finally:
            loading.cancel()
        self._was_ready = True
        facts = loading.result()
        _log.info(
            "serving", address=str(self.address), model=facts.model_id, frontends=self._config.frontends
        )

    async def drain(self, abort: asyncio.Event) -> None:
        """Let the frontends refuse new calls and finish the running ones within the grace period.

        Args:
            abort: ends the grace period once set.

        """
        self.host.health.enter(State.DRAINING)
        self._terminate()
        limit = self._config.shutdown_grace + _STOP_SECONDS
        await finishes_before(abort, self._wait_for_end(limit))
        if self._processes:
            self._terminate()
            await self._wait_for_end(_ABORT_SECONDS)

    async def stop(self) -> None:
        """End what still runs. Safe to call at any time."""
        self._terminate()
        await self._wait_for_end(_ABORT_SECONDS)
        for running in self._processes.values():
            running.process.kill()
        await self._wait_for_end(_ABORT_SECONDS)
        await self.host.close()
        self._port.close()

    async def _wait_for_frontends(self, loading: asyncio.Task[EngineFacts]) -> None:
        loading.add_done_callback(lambda _: self._changed.set())
        while not (loading.done() and all(running.is_ready for running in self._processes.values())):
            await self._changed.wait()
            self._changed.clear()
            if self._failure is not None:
                raise self._failure
            if loading.done():
                loading.result()

    async def _wait_for_end(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._processes:
                    await self._changed.wait()
                    self._changed.clear()

    async def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        # While other frontends listen, one that does not answer yet would only take calls away from them.
        settings = FrontendSettings(
            self._frontend_config,
            self._failed_keys,
            keeps_receipts=self.host.accounting.keeps_receipts,
            listens_early=not self._was_ready,
        )
        process = _SPAWN.Process(target=frontend.run, args=(settings, theirs), name=f"frontend-{number}")
        process.start()
        theirs.close()
        running = _Process(process, Frontend(self.host, partial(self._on_ready, number), self._on_failure))
        self._processes[number] = running
        await running.frontend.connect(ours)
        asyncio.get_running_loop().add_reader(process.sentinel, self._on_end, number)
        if self._is_ending:
            # The signal arrived while the process started.
            process.terminate()

    def _on_ready(self, number: int) -> None:
        self._processes[number].is_ready = True
        self._changed.set()

    def _on_failure(self, reason: str) -> None:
        if self._was_ready:
            _log.error("frontend_failed", reason=reason)
        self._failure = OperatorError(reason)

    def _on_end(self, number: int) -> None:
        asyncio.get_running_loop().remove_reader(self._processes[number].process.sentinel)
        self._keep(asyncio.create_task(self._end(number), name=f"end-of-frontend-{number}"))

    async def _end(self, number: int) -> None:
        """Note that a frontend has ended, and replace it unless all end."""
        running = self._processes[number]
        # What it said before its end comes first.
        await running.frontend.wait_closed()
        del self._processes[number]
        running.process.join()
        mark_process_dead(running.process.pid, str(self._directory))  # type: ignore[no-untyped-call]
        status = running.process.exitcode
        if not self._was_ready and self._failure is None:
            self._failure = OperatorError(f"a frontend ended with status {status} before it was ready")
        self._changed.set()
        if self._is_ending or not self._was_ready or not self.host.is_alive:
            return
        self.host.accounting.note_crash()
        _log.error("frontend_ended", frontend=number, status=status)
        await asyncio.sleep(_RESTART_PAUSE)
        if not self._is_ending:
            await self._start(number)

    def _terminate(self) -> None:
        self._is_ending = True
        for running in self._processes.values():
            running.process.terminate()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _reserved(config: ServiceConfig) -> tuple[socket.socket, Address]:
    """Bind the port of the frontends."""
    address = parse_address(config.grpc_address, "grpc_address")
    if address.is_unix:
        raise SettingError(
            f"frontends: {config.frontends} processes cannot share {address}; set grpc_address to host:port"
        )
    return reserve(address, "grpc_address")


def _frontend_config(config: ServiceConfig, address: Address) -> ServiceConfig:
    """The settings of a frontend. The gRPC core counts connections by process, so each gets its share."""
    share = math.ceil(config.max_connections / config.frontends)
    return config.model_copy(update={"grpc_address": str(address), "max_connections": share})
