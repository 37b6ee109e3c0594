"""The commands `lodestream serve` and `lodestream bridge`, which end when their parent process does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence

from inference_service.config import ServiceConfig
from lodestream import settings
from lodestream.parser import CommandParser
from lodestream.settings import BRIDGE, COMMON, SERVICE
from lodestream_common.native_lines import forward_native_lines
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
    """Run the service until a signal ends it."""
    parser = CommandParser("serve", _ABOUT_SERVE, {**SERVICE, **COMMON}, _SERVE_EXAMPLES)
    config = settings.load(ServiceConfig, parser.parse(arguments))
    from lodestream_common import logs

    if config.frontends == 1:
        forward_native_lines()
    logs.configure(config.log_level, config.log_format, server="service")
    logs.catch_exceptions()
    watch_parent()
    from inference_service.frontends.supervisor import run as run_service

    with logs.separate_error():
        return run_service(config)


_ABOUT_BRIDGE = "Runs the REST bridge: answers OpenAI-style HTTP requests by calls of a gRPC service."
_BRIDGE_EXAMPLES = (
    "lodestream bridge",
    "lodestream bridge --grpc-address 10.0.0.5:50051 --service-ca ca.pem",
    "lodestream bridge --http-address 0.0.0.0:8000 --tls-certificate server.pem --tls-key server.key",
)
GRPC_EXPERIMENTS = "-event_engine_client"
"""Turns off gRPC's event engine in the client. Then the thread that waits for a socket also reads it, which
saves three of five thread switches for each message, and a quarter of the CPU time."""


def bridge(arguments: Sequence[str]) -> int:
    """Run the bridge until a signal ends it."""
    parser = CommandParser("bridge", _ABOUT_BRIDGE, {**BRIDGE, **COMMON}, _BRIDGE_EXAMPLES)
    config = settings.load(BridgeConfig, parser.parse(arguments))
    from lodestream_common import logs

    if config.workers == 1:
        forward_native_lines()
    logs.configure(config.log_level, config.log_format, server="bridge")
    logs.catch_exceptions()
    watch_parent()
    # gRPC reads this when it is imported; a value of the operator is kept.
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
    from rest_bridge.workers import run as run_bridge

    with logs.separate_error():
        return run_bridge(config)


def watch_parent() -> None:
    """Send SIGTERM to this process when its parent ends, for whatever reason.

    The variable LODESTREAM_PARENT_PIPE has the descriptor of a pipe's reading end. The parent never writes to
    the pipe, so its end of file means that the parent has ended. Without the variable nothing happens.
    """
    descriptor = os.environ.get(PARENT_PIPE)
    if descriptor:
        threading.Thread(target=_watch, args=(int(descriptor),), name="parent-watch", daemon=True).start()


def _watch(descriptor: int) -> None:
    os.set_inheritable(descriptor, False)
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
