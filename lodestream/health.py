"""`lodestream health`: the probe of containers and scripts."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Sequence

from lodestream import settings
from lodestream.parser import CommandParser
from lodestream.settings import only
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
    state = ask(address, _seconds(parsed.timeout))
    if state == SERVING:
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


SERVING = "SERVING"


def ask(address: str, timeout: float) -> str:
    """Ask a server for its state, once.

    Args:
        address: `host:port` of the gRPC service, or `http://host:port` of the bridge.
        timeout: seconds to wait for the answer.

    Returns:
        `SERVING` if requests would be answered; else what is in the way, in a few words.

    """
    if address.startswith(("http://", "https://")):
        return _ask_http(address, timeout)
    return _ask_grpc(address, timeout)


def _ask_http(address: str, timeout: float) -> str:
    # A probe asks this very machine or its neighbour; a proxy from the environment would answer for it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address.rstrip("/") + "/health/ready", timeout=timeout):
            return SERVING
    except urllib.error.HTTPError as error:
        error.close()
        return f"NOT_SERVING (HTTP {error.code})"
    except OSError as error:
        return f"unreachable ({getattr(error, 'reason', error)})"
    except ValueError:
        return "not an address"


def _ask_grpc(address: str, timeout: float) -> str:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(  # type: ignore[attr-defined]  # the stub makes it when it is constructed
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.RpcError as error:
            return f"unreachable ({error.code().name})"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
