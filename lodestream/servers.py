"""`lodestream serve` and `lodestream bridge`, tied to the process that started them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence

from inference_service.config import ServiceConfig
from lodestream import settings
from lodestream.parser import CommandParser
from lodestream.settings import BRIDGE, COMMON, SERVICE
from lodestream_common.ready import PARENT_PIPE
from rest_bridge.config import BridgeConfig

_ABOUT_SERVE = "Runs the gRPC service: loads a model and generates with it, until SIGTERM or Ctrl-C."
_SERVE_EXAMPLES = (
    "lodestream serve",
    "lodestream serve --model ~/models/my-llama.gguf --alias llama-3.1-8b=my-llama",
    "lodestream serve --engine ~/engines/llama-3.1-8b-fp8 --alias llama-3.1-8b=llama-3.1-8b-fp8",
    "lodestream serve --backend simulated --simulated-decode-tps 50",
)


def serve(arguments: Sequence[str]) -> int:
    """Serve until told to end."""
    parser = CommandParser("serve", _ABOUT_SERVE, {**SERVICE, **COMMON}, _SERVE_EXAMPLES)
    config = settings.load(ServiceConfig, parser.parse(arguments))
    from lodestream_common import logs

    logs.configure(config.log_level, config.log_format, server="service")
    logs.catch_exceptions()
    hold()
    from inference_service.server import run as run_service

    with logs.errors_apart():
        return run_service(config)


_ABOUT_BRIDGE = "Runs the REST bridge: answers OpenAI-style HTTP by asking a gRPC service."
_BRIDGE_EXAMPLES = (
    "lodestream bridge",
    "lodestream bridge --grpc-address 10.0.0.5:50051 --http-address 0.0.0.0:8000",
)
GRPC_EXPERIMENTS = "-event_engine_client"
"""gRPC's own switch for how a client waits for its sockets. Without its event engine the thread that waits
also reads: two switches of threads for each message instead of five, and a quarter less CPU."""


def bridge(arguments: Sequence[str]) -> int:
    """Bridge until told to end."""
    parser = CommandParser("bridge", _ABOUT_BRIDGE, {**BRIDGE, **COMMON}, _BRIDGE_EXAMPLES)
    config = settings.load(BridgeConfig, parser.parse(arguments))
    from lodestream_common import logs

    logs.configure(config.log_level, config.log_format, server="bridge")
    logs.catch_exceptions()
    hold()
    # Read while gRPC is imported; an operator's own choice counts more.
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
    from rest_bridge.server import run as run_bridge

    with logs.errors_apart():
        return run_bridge(config)


def hold() -> None:
    """Send SIGTERM to this process once its parent is gone, however the parent ended.

    The parent names the reading end of a pipe in LODESTREAM_PARENT_PIPE and never writes to it: the end of
    the file is the end of the parent. Without the variable nothing happens.
    """
    descriptor = os.environ.get(PARENT_PIPE)
    if descriptor:
        threading.Thread(target=_watch, args=(int(descriptor),), name="leash", daemon=True).start()


def _watch(descriptor: int) -> None:
    os.set_inheritable(descriptor, False)
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
