"""The parameters of a generation: name, protocol field, type, default, range, unit and meaning of each.

The service checks requests against this table, the bridge describes its request bodies by it, and
`docs/parameters.md` prints it. The protocol's comments are tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_INT32 = 2**31 - 1
_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter, as every part of the system knows it."""

    name: str
    """In the bodies of REST requests."""
    field: str
    """Path of its field in `GenerateRequest`."""
    type: Literal["number", "integer", "string", "boolean", "array", "object"]
    meaning: str
    """One sentence or two, for callers."""
    default: float | None = None
    """None: unset is a state of its own, or the meaning says what holds."""
    low: float = -math.inf
    high: float = math.inf
    """The range of a number, or of each number in an array or object."""
    excludes_low: bool = False
    unit: str = ""
    max_items: int | None = None
    """Most elements of an array or members of an object."""
    max_length: int | None = None
    """Most characters of a text, or of each text in an array."""

    @property
    def range(self) -> str:
        """The accepted numbers, as `[low, high]`, or `(low, high]` where `low` itself is not accepted."""
        return f"{'(' if self.excludes_low else '['}{number_text(self.low)}, {number_text(self.high)}]"

    def accepts(self, value: float) -> bool:
        """Whether a number is in the range."""
        above = value > self.low if self.excludes_low else value >= self.low
        return above and value <= self.high


def number_text(value: float) -> str:
    """A number as messages show it: whole ones without a decimal point."""
    return repr(value).removesuffix(".0")


_TABLE = (
    Parameter(
        "max_tokens",
        "stopping.max_tokens",
        "integer",
        "Most tokens to generate, at most `max_tokens_limit` of the model in /v1/models (4096 unless the "
        "operator sets another); without it `default_max_tokens` (150 unless set), or what the context has "
        "room for.",
        default=150,
        low=1,
        high=4096,
        unit="tokens",
    ),
    Parameter(
        "temperature",
        "sampling.temperature",
        "number",
        "Sampling temperature; 0 decodes greedily.",
        default=0.7,
        low=0.0,
        high=2.0,
    ),
    Parameter(
        "top_p",
        "sampling.top_p",
        "number",
        "Nucleus sampling: the probability mass to sample from.",
        default=0.9,
        low=0.0,
        high=1.0,
        unit="probability",
    ),
    Parameter(
        "top_k",
        "sampling.top_k",
        "integer",
        "Samples from the k likeliest tokens; 0 or -1: from all.",
        default=0,
        low=-1,
        high=_INT32,
        unit="tokens",
    ),
    Parameter(
        "min_p",
        "sampling.min_p",
        "number",
        "Drops tokens below this share of the likeliest one's probability; 0: none.",
        default=0.0,
        low=0.0,
        high=1.0,
        unit="probability",
    ),
    Parameter(
        "frequency_penalty",
        "sampling.frequency_penalty",
        "number",
        "Penalty for each time a token was generated already.",
        default=0.0,
        low=-2.0,
        high=2.0,
        unit="logits",
    ),
    Parameter(
        "presence_penalty",
        "sampling.presence_penalty",
        "number",
        "Penalty for tokens that were generated already.",
        default=0.0,
        low=-2.0,
        high=2.0,
        unit="logits",
    ),
    Parameter(
        "repetition_penalty",
        "sampling.repetition_penalty",
        "number",
        "Multiplicative penalty for repetition, over 0; 1 is off.",
        default=1.0,
        low=0.0,
        high=2.0,
        excludes_low=True,
    ),
    Parameter(
        "seed",
        "sampling.seed",
        "integer",
        "The same request with the same seed gives the same text on the same idle engine.",
        low=-_INT64 - 1,
        high=_INT64,
    ),
    Parameter(
        "logit_bias",
        "sampling.logit_bias",
        "object",
        "Token ids, and what is added to their logits; -100 forbids a token.",
        low=-100.0,
        high=100.0,
        unit="logits",
        max_items=300,
    ),
    Parameter(
        "n", "output.n", "integer", "Answers to each prompt.", default=1, low=1, high=8, unit="choices"
    ),
    Parameter(
        "stop",
        "stopping.stop",
        "array",
        "Up to 4 texts that end the generation; not part of it, nor looked for in demanded calls.",
        max_items=4,
        max_length=1024,
    ),
    Parameter(
        "include_stop_str_in_output",
        "stopping.include_stop",
        "boolean",
        "Keeps the text of `stop` that was met at the end of the answer.",
        default=False,
    ),
    Parameter(
        "stop_token_ids",
        "stopping.stop_token_ids",
        "array",
        "Token ids that end the generation; they are not part of it.",
        max_items=64,
    ),
    Parameter(
        "ignore_eos",
        "stopping.ignore_eos",
        "boolean",
        "Keeps generating past the model's end-of-sequence token.",
        default=False,
    ),
    Parameter(
        "top_logprobs",
        "output.top_logprobs",
        "integer",
        "Likeliest tokens at each place with their log probabilities; only with `logprobs`.",
        default=0,
        low=0,
        high=20,
        unit="tokens",
    ),
    Parameter(
        "user",
        "user",
        "string",
        "Your own name for the end user; recorded with the request.",
        max_length=256,
        unit="characters",
    ),
    Parameter(
        "tools",
        "chat.tools",
        "array",
        "Functions that the model may call.",
        max_items=128,
    ),
    Parameter(
        "prompt",
        "batch.prompts",
        "array",
        "What to continue: a text, its token ids, or up to 16 of these.",
        max_items=16,
    ),
)

PARAMETERS: Mapping[str, Parameter] = {parameter.name: parameter for parameter in _TABLE}
"""By name, in the order of the documentation."""
