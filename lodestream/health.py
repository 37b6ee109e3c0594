"""`lodestream health`: the probe of containers and scripts."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from lodestream import probe, settings
from lodestream.groups import only
from lodestream.parser import CommandParser
from lodestream.sources import CALLER_TARGET, CALLER_URL
from lodestream_common.address import parse_address
from lodestream_common.config import CommonConfig
from lodestream_common.errors import SettingError


def run(arguments: Sequence[str]) -> int:
    """Print the state; 0 if the server is serving, else 1."""
    parser = CommandParser(
        "health",
        "Asks a server whether it serves. Prints SERVING and exits with 0 if it does; exits with 1 if it "
        "does not, or cannot be reached. Needs no key.",
        only("grpc_address"),
        ["lodestream health", "lodestream health --address http://127.0.0.1:8000"],
        operands="[--address ADDRESS] [--timeout SECONDS]",
    )
    parser.add_argument(
        "--address",
        help="host:port of the gRPC service, or http://host:port of the bridge "
        "[default: --grpc-address, else LODESTREAM_TARGET, else LODESTREAM_URL]",
    )
    parser.add_argument(
        "--timeout", default="5", metavar="SECONDS", help="how long to wait for the answer [default: 5]"
    )
    parsed = parser.parse(arguments)
    address = parsed.address or _configured(parsed)
    if "://" not in address:
        address = str(parse_address(address, "--address").reachable)
    state = probe.ask(address, _seconds(parsed.timeout))
    if state == probe.SERVING:
        print(state)
        return 0
    print(f"{address}: {state}", file=sys.stderr)
    return 1


def _configured(parsed: Namespace) -> str:
    """The address that was set somewhere: for the servers, which counts more, or for their callers."""
    given = settings.collect(parsed)
    of_callers = os.environ.get(CALLER_TARGET) or os.environ.get(CALLER_URL)
    if of_callers and "grpc_address" not in given:
        return of_callers
    return settings.build(CommonConfig, given).grpc_address


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise SettingError(f"--timeout: {text!r} is not a number of seconds above 0, at most 3600")
    return seconds
