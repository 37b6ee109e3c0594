"""The table of the parameters of a generation: name, protocol field, type, default, range, unit and meaning.

The service validates requests against this table, and the bridge describes its request bodies by it.
`docs/parameters.md` is made from it, and the comments of the protocol are tested against it.
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
    """One parameter of a generation."""

    name: str
    """The name in REST requests."""
    field: str
    """The path of the field in `GenerateRequest`."""
    type: Literal["number", "integer", "string", "boolean", "array", "object"]
    meaning: str
    """One or two sentences for callers."""
    default: float | None = None
    """None: there is no default value, or the meaning describes it."""
    low: float = -math.inf
    high: float = math.inf
    """The range of a number, or of each number in an array or object."""
    excludes_low: bool = False
    unit: str = ""
    max_items: int | None = None
    """Most elements of an array or members of an object."""
    max_length: int | None = None
    """Most characters of a text, or of each text in an array."""
    values: tuple[str, ...] = ()
    """All that a text may be; empty: any. The first one holds where it is unset."""

    @property
    def range(self) -> str:
        """The accepted numbers, as `[low, high]`, or `(low, high]` if `low` itself is not accepted."""
        return f"{'(' if self.excludes_low else '['}{number_text(self.low)}, {number_text(self.high)}]"

    def accepts(self, value: float) -> bool:
        """Whether a number is in the range."""
        above = value > self.low if self.excludes_low else value >= self.low
        return above and value <= self.high


def number_text(value: float) -> str:
    """Write a number for messages: whole ones without a decimal point."""
    return repr(value).removesuffix(".0")


_TABLE = (
    Parameter(
        "max_tokens",
        "stopping.max_tokens",
        "integer",
        "Most tokens to generate, at most the model's `max_tokens_limit` in /v1/models (4096, unless the "
        "operator sets another). Default: the model's `default_max_tokens` (150, unless the operator sets "
        "another), or less if the context length allows less.",
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
        "Nucleus sampling: samples from the likeliest tokens with this probability in sum.",
        default=0.9,
        low=0.0,
        high=1.0,
        unit="probability",
    ),
    Parameter(
        "top_k",
        "sampling.top_k",
        "integer",
        "Samples from the k likeliest tokens; 0 or -1: from all tokens.",
        default=0,
        low=-1,
        high=_INT32,
        unit="tokens",
    ),
    Parameter(
        "min_p",
        "sampling.min_p",
        "number",
        "Drops tokens below this share of the likeliest token's probability; 0: drops none.",
        default=0.0,
        low=0.0,
        high=1.0,
        unit="probability",
    ),
    Parameter(
        "frequency_penalty",
        "sampling.frequency_penalty",
        "number",
        "Penalty for each earlier occurrence of a token in the answer.",
        default=0.0,
        low=-2.0,
        high=2.0,
        unit="logits",
    ),
    Parameter(
        "presence_penalty",
        "sampling.presence_penalty",
        "number",
        "Penalty for tokens that the answer already contains.",
        default=0.0,
        low=-2.0,
        high=2.0,
        unit="logits",
    ),
    Parameter(
        "repetition_penalty",
        "sampling.repetition_penalty",
        "number",
        "Multiplicative penalty for repetition, above 0; 1: off.",
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
        "A number for each token id that is added to the token's logit; -100 forbids the token.",
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
        "Up to 4 texts that end the generation. They are not part of the answer, and do not end demanded "
        "tool calls.",
        max_items=4,
        max_length=1024,
    ),
    Parameter(
        "include_stop_str_in_output",
        "stopping.include_stop",
        "boolean",
        "Keeps the text of `stop` that ended the answer at its end.",
        default=False,
    ),
    Parameter(
        "stop_token_ids",
        "stopping.stop_token_ids",
        "array",
        "Token ids that end the generation. They are not part of the answer.",
        max_items=64,
    ),
    Parameter(
        "ignore_eos",
        "stopping.ignore_eos",
        "boolean",
        "Continues the generation after the model's end-of-sequence token.",
        default=False,
    ),
    Parameter(
        "top_logprobs",
        "output.top_logprobs",
        "integer",
        "Number of likeliest tokens at each position that are reported with their log probabilities; only "
        "with `logprobs`.",
        default=0,
        low=0,
        high=20,
        unit="tokens",
    ),
    Parameter(
        "whitespace",
        "constraint.whitespace",
        "string",
        "What may stand between the parts of the JSON that the answer must be: `compact` is at most one "
        "space, behind a colon or a comma; `flexible` is spaces, tabs and line breaks, up to 64 in a place.",
        values=("compact", "flexible"),
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
        "The prompt: a text, its token ids, or up to 16 of these.",
        max_items=16,
    ),
)

PARAMETERS: Mapping[str, Parameter] = {parameter.name: parameter for parameter in _TABLE}
"""Name → parameter, in the order of the documentation."""
