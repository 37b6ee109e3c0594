"""What a caller's environment says about the service: where it is, and with which key to call it."""

from __future__ import annotations

import os
from typing import TypedDict

from inference_client.channel import TlsConfig

TARGET = "LODESTREAM_TARGET"
API_KEY = "LODESTREAM_API_KEY"
DEFAULT_TARGET = "127.0.0.1:50051"
"""Where `lodestream serve` listens unless it is told otherwise."""


class ClientOptions(TypedDict, total=False):
    """What both clients take beside target and key, as they describe it."""

    timeout: float | None
    retries: int
    patience: float
    max_message_bytes: int
    tls: TlsConfig | None


def target_from_environment() -> str:
    """The target in LODESTREAM_TARGET; the service's default address where there is none."""
    return os.environ.get(TARGET) or DEFAULT_TARGET


def key_from_environment() -> str | None:
    """The key in LODESTREAM_API_KEY; None where there is none."""
    return os.environ.get(API_KEY) or None
