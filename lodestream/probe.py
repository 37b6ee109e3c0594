"""One question to a running server: do you serve?"""

from __future__ import annotations

import urllib.error
import urllib.request

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
