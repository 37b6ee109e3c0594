"""`--log-sample`: both servers keep the lines of the same requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from structlog.testing import capture_logs

from tests.support.service import MODEL_ID
from tests.support.transports import running_transports

REQUESTS = 40


async def test_both_servers_keep_the_same_requests_and_every_refusal() -> None:
    sample = "ok=0.5"
    body = {"model": MODEL_ID, "prompt": "hi", "max_tokens": 1}
    with capture_logs() as lines:
        async with running_transports({"log_sample": sample}, log_sample=sample) as pair:
            for number in range(REQUESTS):
                for name, changes in (("fine", {}), ("bad", {"temperature": 99})):
                    header = {"x-request-id": f"{name}-{number}"}
                    await pair.http.post("/v1/completions", json=body | changes, headers=header)

    assert _ids(lines, "request", "bad") == _ids(lines, "rpc", "bad") == {f"bad-{n}" for n in range(REQUESTS)}
    kept = _ids(lines, "request", "fine")
    assert kept == _ids(lines, "rpc", "fine")
    assert 5 < len(kept) < 35
    assert {line.get("sample_rate") for line in lines if line.get("outcome") == "ok"} == {0.5}


def _ids(lines: list[Any], event: str, name: str) -> set[str]:
    found: list[Mapping[str, Any]] = [line for line in lines if line["event"] == event]
    return {line["request_id"] for line in found if line["request_id"].startswith(name)}
