"""What the service reports of its models, of prompts, and of a request that it only validates."""

from __future__ import annotations

from dataclasses import dataclass

from inference_client.events import Report


@dataclass(frozen=True, slots=True)
class Model:
    """A served model, listed once under each of its names."""

    id: str
    """The model's own id, or an alias."""
    aliases: tuple[str, ...]
    """The other names that requests may use for the same model."""
    created: int
    """Seconds since the Unix epoch at which the model was loaded."""
    owned_by: str
    """Who made the model available."""
    context_length: int
    """Most tokens of prompt and answer together."""
    vocabulary_size: int
    """Number of tokens; token ids are below it."""
    backend: str
    """The backend that runs it: `llama_cpp`, `simulated` or `tensorrt_llm`."""
    max_concurrency: int
    """Generations that run at once; further ones wait in the queue."""
    default_max_tokens: int = 0
    """`max_tokens` of a request that does not set it; 0: the service does not report it."""
    max_tokens_limit: int = 0
    """The highest `max_tokens` that a request may set; 0: the service does not report it."""
    root: str = ""
    """The model's own id, which differs from `id` if that is an alias; empty: the service does not report
    it."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The length of a prompt."""

    token_count: int
    """Number of tokens."""
    token_ids: tuple[int, ...]
    """The ids of the tokens."""
    ignored_parameters: tuple[str, ...] = ()
    """Fields of the request that had no effect, by path in the protocol."""


@dataclass(frozen=True, slots=True)
class Validation:
    """The explanation of a request that the service would accept."""

    request_id: str
    """The request id in the log of the service."""
    model: str
    """The served model id, also when the request used an alias."""
    prompt_tokens: int
    """Length of the prompt, or of all prompts together, in tokens."""
    report: Report
    """The parameters that would be in effect."""
