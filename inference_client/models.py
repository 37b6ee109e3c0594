"""The service's reports about its models, about prompts, and about requests: validated and past ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inference_client.events import Report, StopCause


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
    """The party that made the model available."""
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
    rate_limits: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The `x-ratelimit-` metadata of the reply: limit, remaining and reset of the key's quotas."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The length of a prompt."""

    token_count: int
    """Number of tokens."""
    token_ids: tuple[int, ...]
    """The ids of the tokens."""
    ignored_parameters: tuple[str, ...] = ()
    """Fields of the request that had no effect, by path in the protocol."""
    rate_limits: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The `x-ratelimit-` metadata of the reply: limit, remaining and reset of the key's quotas."""


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
    rate_limits: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The `x-ratelimit-` metadata of the reply: limit, remaining and reset of the key's quotas."""


@dataclass(frozen=True, slots=True)
class UsageReceipt:
    """The usage of one generation request, also of one that was refused or aborted."""

    request_id: str
    """The request id."""
    key_id: str
    """The id of the API key; `anonymous` on a service without keys."""
    key_name: str
    """The name of the API key; likewise."""
    model: str
    """The served model id; empty: the request was refused before its model was known."""
    method: str
    """The RPC: `Generate` or `GenerateStream`."""
    arrived: float
    """Seconds since the Unix epoch at which the request arrived."""
    outcome: str
    """`ok`, `cancelled`, or the code of the error."""
    causes: tuple[StopCause, ...]
    """Why the choices ended, of those that did."""
    choices: int
    """Choices of the request; 0 where it was refused or only validated."""
    prompt_tokens: int
    """Length of the prompts in tokens; 0 where the request was refused before the queue."""
    cached_tokens: int | None
    """Of these, the tokens that the KV cache held; None: the engine does not report it."""
    completion_tokens: int
    """Tokens that the engine decoded, also where the request was aborted."""
    queue_ms: float | None
    """Milliseconds from arrival to admission. None: the request did not come to the queue; so for the next
    three."""
    time_to_first_token_ms: float | None
    """Milliseconds from arrival to the first token."""
    prefill_ms: float | None
    """Milliseconds from admission to the first token."""
    decode_ms: float | None
    """Milliseconds from the first token to the last."""
    total_ms: float
    """Milliseconds from the start of the RPC to its end."""
    rate_limits: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The `x-ratelimit-` metadata of the reply: limit, remaining and reset of the key's quotas."""
