"""Puts the request of the API page to a bridge, and checks the answer."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from typing import Any

REQUEST = {
    "model": "llama-3.1-8b",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    "max_tokens": 100,
    "temperature": 0,
}
PROMPT_TOKENS = {26, 27}
"""Of the default model, which compose.yaml serves, and of the small one."""
COMPLETION_TOKENS = 8


def main() -> int:
    """Wait until the bridge is ready, then ask: without a key, and with it."""
    parser = argparse.ArgumentParser(description="Asks a bridge for the capital of France.")
    parser.add_argument("address", metavar="HOST:PORT", help="where the bridge listens")
    parser.add_argument("--wait", type=float, default=120.0, help="seconds to wait until it is ready")
    arguments = parser.parse_args()
    key = sys.stdin.readline().strip()
    wait_until_ready(arguments.address, arguments.wait)
    status, _ = call(arguments.address, "POST", "/v1/chat/completions", REQUEST)
    if status != 401:
        sys.exit(f"ask: without a key the bridge answers {status} instead of 401")
    status, answer = call(arguments.address, "POST", "/v1/chat/completions", REQUEST, key)
    print(json.dumps(answer))  # noqa: T201
    if problem := problem_of(status, answer):
        sys.exit(f"ask: {problem}")
    return 0


def problem_of(status: int, answer: Any) -> str | None:
    """What is wrong with an answer; None if nothing is."""
    if status != 200:
        return f"the bridge answers {status}"
    text = answer["choices"][0]["message"]["content"]
    if "Paris" not in text:
        return f"the answer is {text!r}"
    usage = answer["usage"]
    right = usage["prompt_tokens"] in PROMPT_TOKENS and usage["completion_tokens"] == COMPLETION_TOKENS
    return None if right else f"the usage is {usage}"


def wait_until_ready(address: str, seconds: float) -> None:
    """Return once requests would be answered; exit if that takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if call(address, "GET", "/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.5)
    sys.exit(f"ask: {address} is not ready after {seconds:.0f} s")


def call(address: str, method: str, path: str, body: Any = None, key: str = "") -> tuple[int, Any]:
    """Send one request; the status and the decoded body."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
