"""What the service says about its models, about prompts, and about a request that it only checked."""

from __future__ import annotations

from dataclasses import dataclass

from inference_client.events import Report


@dataclass(frozen=True, slots=True)
class Model:
    """A served model under one of its names."""

    id: str
    """The name: the model's own id, or an alias."""
    aliases: tuple[str, ...]
    """The other names that requests may use for the same model."""
    created: int
    """Seconds since the Unix epoch at which the model was loaded."""
    owned_by: str
    """Who made the model available."""
    context_length: int
    """Most tokens of prompt and output together."""
    vocabulary_size: int
    """Valid token ids are below it."""
    backend: str
    """The engine that runs it: `llama_cpp`, `simulated`, `tensorrt_llm`."""
    max_concurrency: int
    """Generations that run at once; more wait in the queue."""
    default_max_tokens: int = 0
    """Tokens that a choice gets where its request sets no `max_tokens`; 0: the service does not say."""
    max_tokens_limit: int = 0
    """The most that a request may ask for with `max_tokens`; 0: the service does not say."""
    root: str = ""
    """The model's own id, which differs from `id` where that is an alias; empty: the service does not say."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The length of a prompt."""

    token_count: int
    """Tokens."""
    token_ids: tuple[int, ...]
    """The ids themselves."""
    ignored_parameters: tuple[str, ...] = ()
    """What the request held to no effect, by name."""


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
