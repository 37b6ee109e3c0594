"""Inputs for tests of replies and chunks."""

from __future__ import annotations

import json
from typing import Any

from inference_client import (
    EffectiveSampling,
    Finished,
    FinishReason,
    Report,
    StopCause,
    Summary,
    Timings,
    TokenLogprob,
    Usage,
)
from rest_bridge.middleware import RequestContext
from rest_bridge.openai.responses import ResponseContext

ENDED = Finished(0, FinishReason.LENGTH, StopCause.MAX_TOKENS)
REPORT = Report(
    ignored_parameters=("top_p",),
    sampling=EffectiveSampling(0.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, 5, {7: -100.0}),
    max_tokens=150,
    batch_size=3,
    queue_estimate_ms=12.5,
)
TIMINGS = Timings(queue_ms=1.4, prefill_ms=20.3, decode_ms=30.1, time_to_first_token_ms=21.7)
SUMMARY = Summary(Usage(3, 2, 1), TIMINGS, REPORT)


def response_context(model: str, *ignored: str, **has: bool) -> ResponseContext:
    """The context of a request that has just arrived; `has` are its `has_` fields without the prefix."""
    flags = {f"has_{name}": value for name, value in has.items()}
    return ResponseContext(RequestContext("id", "POST"), model, "here", ignored, **flags)


def token(text: str, logprob: float = -0.5, *top: TokenLogprob, raw: bytes | None = None) -> TokenLogprob:
    """The log probability of a token, whose bytes are by default those of its text."""
    return TokenLogprob(1, text, text.encode() if raw is None else raw, logprob, top)


def payloads(raw: bytes) -> list[dict[str, Any]]:
    """The JSON of each event. Fails on text that is not framed as an event."""
    events = raw.decode().split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events if event != "data: [DONE]"]
