"""The types that the service and a backend exchange.

Everything here is engine-agnostic and already valid: a backend never checks a range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from inference_service.constraints.grammar import Grammar

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: dividing by them overflows an engine's 32-bit floats."""

_OFF: Mapping[str, float] = MappingProxyType(
    {
        "top_k": 0,
        "min_p": 0.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
    }
)
"""Sampling parameters that can be off, with the value that turns them off."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The settings by which each token is chosen. Every field is set; none has a default here."""

    temperature: float
    """Range [0, 2]; under GREEDY_BELOW it is greedy."""
    top_p: float
    """Nucleus mass, range [0, 1]."""
    top_k: int
    """Likeliest tokens kept, 1 or more; 0 is off."""
    min_p: float
    """Range [0, 1]; 0 is off."""
    frequency_penalty: float
    """Range [-2, 2], on generated tokens only."""
    presence_penalty: float
    """Range [-2, 2], on generated tokens only."""
    repetition_penalty: float
    """Range [0.0001, 2]; 1 is off."""
    seed: int
    """Unsigned, 64 bits. Drawn by the service where the caller gave none."""
    reproducible: bool
    """The caller requests repeatable output (a seed, or temperature 0)."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def in_use(self) -> frozenset[str]:
        """Names of the parameters that can be off and are not."""
        return frozenset(name for name, off in _OFF.items() if getattr(self, name) != off)


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One generation, as token ids."""

    request_id: str
    prompt_ids: Sequence[int]
    """At least one id; together with `max_tokens` within the context."""
    sampling: Sampling
    max_tokens: int
    """1 or more."""
    ignore_eos: bool
    """Decode past the end-of-sequence token. Never together with `grammar`."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id → what is added to its logit, range [-100, 100]; -100 forbids it."""
    logprobs: int | None = None
    """None: not requested. Else each step has the log probabilities of its tokens, and those of that many
    likeliest alternatives, range [0, 20]."""
    grammar: Grammar | None = None
    """Describes the whole output; already checked. The end-of-sequence token may come only where the grammar
    is complete."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithm of a token's probability under the model itself, before any sampling parameter.

    Compiled engines report that of the distribution that the token was drawn from instead.
    """

    token_id: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()
    """The likeliest token ids at this place with theirs, likeliest first."""


class EngineFinish(Enum):
    """Why the engine itself stopped."""

    END_OF_SEQUENCE = "end_of_sequence"
    MAX_TOKENS = "max_tokens"


@dataclass(frozen=True, slots=True)
class EngineStep:
    """The output since the last step: one token, or all tokens that became ready while nothing read.

    A step with `finish` set is the last one. An end-of-sequence token is counted in `token_count` and
    is the last of `token_ids`, and has no text.
    """

    token_ids: Sequence[int]
    """Ids in order. Fewer than `token_count` only where the engine cannot name them."""
    token_count: int
    """Tokens decoded in this step. 0 is allowed (progress of the prefill)."""
    text: str | None
    """The text of the step where the engine detokenises, whole code points; None: detokenise the ids."""
    finish: EngineFinish | None = None
    cached_tokens: int | None = None
    """Prompt tokens found in the KV cache; in one step, or in none where the engine does not report it."""
    logprobs: Sequence[TokenLogprob] = ()
    """If requested: one for each of `token_ids`, in order; an end-of-sequence token may lack its own."""


@dataclass(frozen=True, slots=True)
class BackendDescription:
    """The description of a started backend and its abilities."""

    name: str
    """`llama_cpp`, `simulated`, `tensorrt_llm`."""
    context_length: int
    """Most tokens of one request, prompt and output together."""
    max_concurrency: int
    """Generations that run at once; the service admits no more."""
    vocabulary_size: int
    refused: frozenset[str] = frozenset()
    """Parameters that it cannot honour, of those that can be off, by their public names: sampling parameters,
    `logit_bias`, `logprobs`, `top_logprobs`, and `grammar` for constraints of every kind."""
    ceilings: Mapping[str, float] = field(default_factory=dict)
    """Greatest permitted values, by public name, where the contract permits more."""


@dataclass(frozen=True, slots=True)
class BackendStats:
    """A reading of the engine, cheap enough to take at every probe."""

    running: int
    """Requests the engine works on, including aborted ones that it has not released."""
    aborts_pending: int = 0
    """Of those, how many were aborted and still hold their slot."""
    alive: bool = True
    """False once the engine can serve nothing any more."""
    last_step_age: float = 0.0
    """Seconds since the engine last made progress; 0 when nothing runs."""
    waiting: int | None = None
    """Requests that the engine has and does not work on yet; None where it does not report them."""
    kv_blocks_used: int | None = None
    """Blocks of the KV cache that hold something; None where the engine does not report it."""
    kv_blocks_free: int | None = None
