"""`lodestream health`: exit status 0 when the server serves, and only then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from lodestream.cli import main

Servicer = health.HealthServicer


@pytest.fixture
def servicer() -> Servicer:
    return health.HealthServicer()


@pytest.fixture
def grpc_address(servicer: Servicer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait(5)


class _Ready(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health/ready" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # A probe that obeyed this would never reach the server below.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server = HTTPServer(("127.0.0.1", 0), _Ready)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(5)
    server.server_close()


@pytest.mark.parametrize(
    ("state", "status"),
    [("SERVING", 0), ("NOT_SERVING", 1), ("UNKNOWN", 1)],
)
def test_the_state_of_the_service_is_the_exit_status(
    servicer: Servicer, grpc_address: str, state: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over gRPC the standard health service answers; anything but SERVING is a failure that is named."""
    servicer.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(state))

    assert main(["health", "--address", grpc_address]) == status
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (
        ("SERVING\n", "") if status == 0 else ("", f"{grpc_address}: {state}\n")
    )


def test_the_address_is_the_setting_by_default(
    servicer: Servicer, grpc_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --address the service's own setting is probed, a wildcard over loopback."""
    monkeypatch.setenv("LODESTREAM_GRPC_ADDRESS", "0.0.0.0:" + grpc_address.rsplit(":", 1)[1])

    assert main(["health"]) == 0


def test_the_callers_variables_name_the_server(
    servicer: Servicer, grpc_address: str, http_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LODESTREAM_TARGET and LODESTREAM_URL count where no address is set; a setting beats both."""
    monkeypatch.setenv("LODESTREAM_URL", http_address)
    assert main(["health"]) == 0

    monkeypatch.setenv("LODESTREAM_TARGET", "127.0.0.1:1")
    assert main(["health"]) == 1

    monkeypatch.setenv("LODESTREAM_GRPC_ADDRESS", grpc_address)
    assert main(["health"]) == 0


@pytest.mark.parametrize(("code", "status"), [(200, 0), (503, 1)])
def test_the_bridge_is_asked_over_http(
    http_address: str, code: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP /health/ready decides, and no proxy comes between."""
    monkeypatch.setattr(_Ready, "status", code)

    assert main(["health", "--address", http_address]) == status


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "http://127.0.0.1:1", "http://nowhere.invalid", "http://["]
)
def test_a_server_that_is_not_there_does_not_serve(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unreachable server is exit status 1 and one line."""
    assert main(["health", "--address", address, "--timeout", "2"]) == 1
    assert capsys.readouterr().err.startswith(address + ": ")
