"""What whole replies and chunks of streams have in common."""

from __future__ import annotations

import uuid
from typing import Any

from inference_client import FinishReason, Usage

Json = dict[str, Any]


def new_id(prefix: str) -> str:
    """A fresh id of a reply: `chatcmpl-…`, `cmpl-…`."""
    return f"{prefix}-{uuid.uuid4().hex}"


def finish_reason(reason: FinishReason) -> str:
    """Why a choice ended, as REST spells it. A reason newer than this bridge ends it all the same."""
    return "stop" if reason is FinishReason.UNKNOWN else reason.value


def usage(counts: Usage) -> Json:
    """Token counts. Details are absent where the engine does not tell what its cache held."""
    known = counts.cached_tokens is not None
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
        **({"prompt_tokens_details": {"cached_tokens": counts.cached_tokens}} if known else {}),
    }
