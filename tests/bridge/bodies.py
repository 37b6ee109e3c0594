"""Bodies that tests start from."""

from __future__ import annotations

from typing import Any

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
COMPLETIONS_STREAM = "/v1/completions/stream"


def chat(**more: Any) -> dict[str, Any]:
    """The least chat request, and more."""
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}


def completion(**more: Any) -> dict[str, Any]:
    """The least completion request, and more."""
    return {"model": "m", "prompt": "hi", **more}
