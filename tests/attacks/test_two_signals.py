"""Two signals in quick succession: the second one ends the grace period, and callers get an error."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_client import Client, Delta, UnavailableError
from inference_service.models.loader import ModelFile
from tests.support.up import FREE_PORTS, TIMEOUT_SECONDS, Start, Up, all_gone, starting, stream

LONG: dict[str, Any] = {"max_tokens": 4000, "ignore_eos": True}
SLOW = ("--simulated-decode-tps=5", "--shutdown-grace=600")


@pytest.fixture
def start(tmp_path: Path, model_file: ModelFile) -> Iterator[Start]:
    with starting(tmp_path, model_file) as run:
        yield run


class GrpcCaller(threading.Thread):
    """Streams over gRPC until the service ends the stream; `error` is the error it raised."""

    def __init__(self, up: Up) -> None:
        super().__init__(daemon=True)
        self._up = up
        self.begun = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        with Client(self._up.grpc, retries=0) as client:
            try:
                for event in client.stream(model=self._up.find(r"model +(\S+)"), prompt="Hello", **LONG):
                    if isinstance(event, Delta):
                        self.begun.set()
            except UnavailableError as error:
                self.error = error


@pytest.mark.parametrize(
    ("first", "second", "seconds"),
    [
        (signal.SIGTERM, signal.SIGINT, 0.0),
        # The system delivers only one of two equal signals that are pending together.
        (signal.SIGTERM, signal.SIGTERM, 0.05),
        (signal.SIGINT, signal.SIGINT, 0.05),
    ],
)
def test_a_second_signal_ends_the_grace_period_with_errors_for_callers(
    start: Start, first: signal.Signals, second: signal.Signals, seconds: float
) -> None:
    """Before, `up` killed the service after 3 seconds, and callers got no error."""
    up = start(*FREE_PORTS, *SLOW).until_ready()
    children = up.children().values()
    caller = GrpcCaller(up)
    caller.start()
    assert caller.begun.wait(TIMEOUT_SECONDS)
    with stream(up, **LONG) as lines:
        up.process.send_signal(first)
        time.sleep(seconds)
        up.process.send_signal(second)
        events = [line for line in lines if line.startswith("data: ")]
    caller.join(TIMEOUT_SECONDS)

    assert up.process.wait(TIMEOUT_SECONDS) == 130
    assert all_gone(children)
    assert '"error"' in events[-1]
    assert "shutting down" in str(caller.error)
    assert [line["server"] for line in up.logs if line["event"] == "stopped"] == ["bridge", "service"]
