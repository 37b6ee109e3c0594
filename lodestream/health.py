"""The command `lodestream health`, a health probe for containers and scripts."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lodestream import settings
from lodestream.parser import CommandParser
from lodestream.settings import only
from lodestream.sources import CALLER_TARGET, CALLER_URL
from lodestream_common.address import parse_address
from lodestream_common.config import CommonConfig
from lodestream_common.errors import SettingError
from lodestream_common.tls import TlsFiles
from rest_bridge.config import BridgeConfig

if TYPE_CHECKING:
    import grpc


def run(arguments: Sequence[str]) -> int:
    """Print the state of a server.

    Returns:
        0 if the server is serving, else 1.

    """
    parser = CommandParser(
        "health",
        "Checks whether a server serves. If it does, the command prints SERVING and exits with 0. If it does "
        "not, or cannot be reached, the command exits with 1. Needs no key.",
        only("grpc_address", "tls_certificate", *_TLS),
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
    config = settings.build(BridgeConfig, settings.collect(parsed))
    state = probe(address, _seconds(parsed.timeout), ProbeTls.of(config))
    if state == SERVING:
        print(state)
        return 0
    print(f"{address}: {state}", file=sys.stderr)
    return 1


def _configured(parsed: Namespace) -> str:
    """The address in the settings of the servers, or else in the variables of callers."""
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
_TLS = ("service_ca", "service_certificate", "service_key", "service_server_name")


@dataclass(frozen=True, slots=True)
class ProbeTls:
    """TLS of a probe."""

    files: TlsFiles
    """The TLS settings of a bridge towards its service."""
    server_name: str | None
    bridge_certificate: Path | None
    """What a bridge on https:// must present, whatever its name; None: one from the authorities."""

    @classmethod
    def of(cls, config: BridgeConfig) -> ProbeTls:
        """Read the settings.

        Raises:
            SettingError: a setting has no effect without `service_ca`.

        """
        files = TlsFiles(config.service_certificate, config.service_key, config.service_ca,
                         ("service_certificate", "service_key", "service_ca"))  # fmt: skip
        for name in _TLS:
            if files.authorities is None and getattr(config, name) is not None:
                raise SettingError(f"{name}: needs service_ca, too")
        return cls(files, config.service_server_name, config.tls_certificate)

    def context(self) -> ssl.SSLContext:
        """Make the context of a probe of the bridge.

        Raises:
            SettingError: a file cannot be read, or has no certificate.

        """
        trusted = self.bridge_certificate or self.files.authorities
        try:
            context = ssl.create_default_context(cafile=trusted)
        except OSError as error:
            raise SettingError(f"{trusted} cannot be used as a certificate: {error}") from None
        if self.bridge_certificate is not None:
            # The probe has the server's own file, and no other certificate will do: the name adds nothing.
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def probe(address: str, timeout: float, tls: ProbeTls | None = None) -> str:
    """Request the state of a server, once.

    Args:
        address: `host:port` of the gRPC service, or `http://host:port` of the bridge.
        timeout: seconds to wait for the answer.
        tls: certificates; None: plain text over gRPC, the system's authorities for https://.

    Returns:
        `SERVING` if it accepts requests; else the reason in a few words.

    """
    if address.startswith(("http://", "https://")):
        return _probe_http(address, timeout, tls)
    return _probe_grpc(address, timeout, tls)


def _probe_http(address: str, timeout: float, tls: ProbeTls | None) -> str:
    # A probe reaches a server directly; a proxy from the environment would answer in its place.
    https = urllib.request.HTTPSHandler(context=tls.context() if tls else None)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)
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


def _probe_grpc(address: str, timeout: float, tls: ProbeTls | None) -> str:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with _open(address, tls) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(  # type: ignore[attr-defined]  # the constructor of the stub sets it
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.RpcError as error:
            return f"unreachable ({error.code().name})"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


def _open(address: str, tls: ProbeTls | None) -> grpc.Channel:
    import grpc

    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if tls is None or tls.files.authorities is None:
        return grpc.insecure_channel(address, options)
    pem = tls.files.read()
    if tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc.ssl_channel_credentials(pem.authorities, pem.key, pem.certificate)
    return grpc.secure_channel(address, credentials, options)
