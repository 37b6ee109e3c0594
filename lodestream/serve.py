"""`lodestream serve`."""

from __future__ import annotations

from collections.abc import Sequence

from inference_service.config import ServiceConfig
from lodestream import leash, settings
from lodestream.groups import COMMON, SERVICE
from lodestream.parser import CommandParser

_ABOUT = "Runs the gRPC service: loads a model and generates with it, until SIGTERM or Ctrl-C."
_EXAMPLES = (
    "lodestream serve",
    "lodestream serve --model ~/models/my-llama.gguf --alias llama-3.1-8b=my-llama",
    "lodestream serve --engine ~/engines/llama-3.1-8b-fp8 --alias llama-3.1-8b=llama-3.1-8b-fp8",
    "lodestream serve --backend simulated --simulated-decode-tps 50",
)


def run(arguments: Sequence[str]) -> int:
    """Serve until told to end."""
    parser = CommandParser("serve", _ABOUT, {**SERVICE, **COMMON}, _EXAMPLES)
    config = settings.load(ServiceConfig, parser.parse(arguments))
    from lodestream_common import logs

    logs.configure(config.log_level, config.log_format, server="service")
    logs.catch_exceptions()
    leash.hold()
    from inference_service.server import run as run_service

    with logs.errors_apart():
        return run_service(config)
