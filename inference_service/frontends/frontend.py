"""The frontend process: a server whose engine, admission and accounting are in another process."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass

import structlog
import uvloop

from inference_service.backends.base import EngineDeadError
from inference_service.config import ServiceConfig
from inference_service.frontends.remote import RemoteAccounting, RemoteEngine
from inference_service.server import Parts, serve
from lodestream_common import logs
from lodestream_common.errors import OperatorError
from lodestream_common.failed_keys import SharedFailedKeys, SharedTimes
from lodestream_common.native_lines import forward_native_lines

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FrontendSettings:
    """The arguments of a new frontend process."""

    config: ServiceConfig
    failed_keys: SharedTimes
    keeps_receipts: bool
    listens_early: bool
    """Whether it listens before the engine has started, and answers that it is starting."""


def run(settings: FrontendSettings, engine: socket.socket) -> None:
    """Serve until SIGTERM. Signals of the terminal reach the engine's process alone, which passes them on.

    Args:
        settings: of all frontends.
        engine: one end of a socket pair; the engine's process has the other.

    """
    os.setpgrp()
    forward_native_lines()
    logs.configure(settings.config.log_level, settings.config.log_format, server="service")
    logs.catch_exceptions()
    sys.exit(uvloop.run(_serve(settings, engine)))


async def _serve(settings: FrontendSettings, socket_of_engine: socket.socket) -> int:
    engine = RemoteEngine()
    await engine.remote.connect(socket_of_engine)

    def ready(_: str) -> None:
        engine.remote.note("ready")

    accounting = RemoteAccounting(engine.remote, settings.config, keeps_receipts=settings.keeps_receipts)
    parts = Parts(accounting, engine.load, SharedFailedKeys(settings.failed_keys), engine.interval)
    try:
        if not settings.listens_early:
            await engine.read_model()
        return await serve(settings.config, parts, ready)
    except OperatorError as error:
        engine.remote.note("failed", str(error))
        await engine.remote.close()
        return error.exit_status
    except EngineDeadError as error:
        _log.error("engine_process_ended", reason=str(error))
        return 1
