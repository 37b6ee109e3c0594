"""What the service says of a request that it only checked."""

from __future__ import annotations

from dataclasses import dataclass

from inference_client.report import Report


@dataclass(frozen=True, slots=True)
class Validation:
    """A request that the service would take, explained."""

    request_id: str
    """The id under which the service knows the request."""
    model: str
    """The served model id, also when the request used an alias."""
    prompt_tokens: int
    """Length of the prompt, of all prompts together, in tokens."""
    report: Report
    """What would become of the request's parameters."""
