"""Several processes that answer HTTP on one port: the kernel divides the connections among them.

What counts for all of them lies in shared memory: connections, and the failed keys of each address. Metrics
lie in files of the metrics library, and any worker answers with the sums.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, cast

import structlog
from prometheus_client.multiprocess import mark_process_dead

from lodestream_common import logs
from lodestream_common.address import parse_address, reserve
from lodestream_common.errors import OperatorError
from lodestream_common.failed_keys import SharedFailedKeys, SharedTimes
from lodestream_common.metrics import SHARED_DIRECTORY
from lodestream_common.native_lines import forward_native_lines
from lodestream_common.ready import announce_ready
from rest_bridge import server
from rest_bridge.config import BridgeConfig
from rest_bridge.limits import ConnectionCap

_SPAWN = multiprocessing.get_context("spawn")
_RESTART_PAUSE = 1.0
"""Seconds before a worker that ended by itself is replaced."""

_log = structlog.stdlib.get_logger(__name__)


def run(config: BridgeConfig, on_ready: Callable[[str], None] = announce_ready) -> int:
    """Serve in `config.workers` processes until a signal arrives; see `server.run`."""
    if config.workers == 1:
        return server.run(config, on_ready)
    return _Supervisor(config, on_ready).run()


@dataclass(frozen=True, slots=True)
class Shared:
    """The counters that all workers share."""

    connections: Any
    """One integer for each worker: its open connections."""
    refused: Any
    """One for each worker: the connections that it refused since the limit was reached."""
    failed: SharedTimes
    """The times of failed keys."""

    @classmethod
    def of(cls, workers: int) -> Shared:
        """Shared memory for so many workers."""
        return cls(_SPAWN.RawArray("q", workers), _SPAWN.RawArray("q", workers), SharedTimes.make())

    def forget(self, worker: int) -> None:
        """Take the connections of a worker that ended out of the count."""
        self.connections[worker] = self.refused[worker] = 0


class SharedCap(ConnectionCap):
    """The largest number of connections of all workers together, as one of them sees it."""

    def __init__(self, limit: int, shared: Shared, worker: int) -> None:
        super().__init__(limit)
        self._shared = shared
        self._worker = worker

    @property
    def is_reached(self) -> bool:
        """Whether any worker refused connections, and their number has not fallen since."""
        return any(self._shared.refused)

    def accepts(self, count: int) -> bool:
        """Whether this worker may have so many."""
        accepted = super().accepts(self._total(count))
        self._shared.refused[self._worker] = self._refused
        return accepted

    def update(self, count: int) -> None:
        """Note the number of this worker's connections now."""
        super().update(self._total(count))
        self._shared.refused[self._worker] = self._refused

    def _total(self, count: int) -> int:
        self._shared.connections[self._worker] = count
        return sum(self._shared.connections)


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    is_ready: bool = False


class _Supervisor:
    """Starts the workers, replaces one that ends by itself, and passes signals on."""

    def __init__(self, config: BridgeConfig, on_ready: Callable[[str], None]) -> None:
        """Check the settings and reserve the port.

        Raises:
            OperatorError: as `server.run`.

        """
        server.check(config)
        self._port, address = reserve(parse_address(config.http_address, server.SETTING), server.SETTING)
        self._config = config.model_copy(update={"http_address": str(address)})
        self._on_ready = on_ready
        self._shared = Shared.of(config.workers)
        self._workers: dict[int, _Worker] = {}
        self._is_ending = False

    def run(self) -> int:
        """Serve until a signal arrives."""
        with tempfile.TemporaryDirectory(prefix="lodestream-metrics-") as directory:
            os.environ[SHARED_DIRECTORY] = directory
            try:
                return self._serve()
            finally:
                del os.environ[SHARED_DIRECTORY]

    def _serve(self) -> int:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._on_signal)
        for number in range(self._config.workers):
            self._start(number)
        try:
            self._watch()
        finally:
            self._end()
            self._port.close()
        return 0

    def _start(self, number: int) -> None:
        pipe, child = _SPAWN.Pipe(duplex=False)
        arguments = (self._config, self._shared, number, child)
        process = _SPAWN.Process(target=_work, args=arguments, name=f"bridge-{number}")
        process.start()
        child.close()
        self._workers[number] = _Worker(process, pipe)
        if self._is_ending:
            # The signal arrived while the process started.
            process.terminate()

    def _watch(self) -> None:
        was_ready = False
        while self._workers:
            workers = dict(self._workers)
            wait(
                [w.process.sentinel for w in workers.values()]
                + [w.pipe for w in workers.values() if not w.is_ready]
            )
            for number, worker in workers.items():
                self._check(number, worker, was_ready=was_ready)
            if not was_ready and self._workers and all(w.is_ready for w in self._workers.values()):
                was_ready = True
                self._on_ready(self._config.http_address)

    def _check(self, number: int, worker: _Worker, *, was_ready: bool) -> None:
        """Notice that a worker became ready, or ended.

        Raises:
            OperatorError: it cannot serve.

        """
        if not worker.is_ready and worker.pipe.poll():
            error = _received(worker.pipe)
            if error is not None:
                raise OperatorError(error)
            worker.is_ready = True
        if worker.process.is_alive():
            return
        del self._workers[number]
        worker.pipe.close()
        self._shared.forget(number)
        mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]
        if self._is_ending:
            return
        if not was_ready:
            raise OperatorError(f"a worker ended with status {worker.process.exitcode} before it was ready")
        _log.error("worker_ended", worker=number, status=worker.process.exitcode)
        time.sleep(_RESTART_PAUSE)
        self._start(number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_ending = True
        for worker in self._workers.values():
            worker.process.terminate()

    def _end(self) -> None:
        """End what still runs."""
        self._is_ending = True
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join()


def _received(pipe: Connection) -> str | None:
    """The report of a worker: why it cannot serve, or None: it serves. A pipe that ends reports nothing."""
    try:
        return cast("str | None", pipe.recv())
    except EOFError:
        return "a worker ended before it was ready"


def _work(config: BridgeConfig, shared: Shared, worker: int, pipe: Connection) -> None:
    """Serve as one worker. Signals of the terminal reach the supervisor alone, which passes them on."""
    os.setpgrp()
    forward_native_lines()
    logs.configure(config.log_level, config.log_format, server="bridge")
    logs.catch_exceptions()
    threading.Thread(target=_end_with_supervisor, name="supervisor", daemon=True).start()
    try:
        with logs.separate_error():
            cap = SharedCap(server.affordable(config.max_connections), shared, worker)
            server.run(
                config,
                lambda _: pipe.send(None),
                server.Parts(cap, SharedFailedKeys(shared.failed), is_shared=True),
            )
    except OperatorError as error:
        pipe.send(str(error))


def _end_with_supervisor() -> None:
    supervisor = multiprocessing.parent_process()
    if supervisor is not None:
        supervisor.join()
        os.kill(os.getpid(), signal.SIGTERM)
