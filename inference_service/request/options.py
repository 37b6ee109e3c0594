"""Reads the options of a request: sampling, stopping, the parts of the answer, and its constraint."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.backends.types import GREEDY_BELOW, Sampling
from inference_service.constraints.json_text import Whitespace
from inference_service.request.prompt import BatchPrompt, ChatPrompt, Prompt
from inference_service.request.violations import Violations, as_float32
from lodestream_common.parameters import PARAMETERS, Parameter

TEMPERATURE = PARAMETERS["temperature"]
TOP_P = PARAMETERS["top_p"]
TOP_K = PARAMETERS["top_k"]
MIN_P = PARAMETERS["min_p"]
FREQUENCY_PENALTY = PARAMETERS["frequency_penalty"]
PRESENCE_PENALTY = PARAMETERS["presence_penalty"]
REPETITION_PENALTY = PARAMETERS["repetition_penalty"]
LOGIT_BIAS = PARAMETERS["logit_bias"]
LEAST_REPETITION = 1e-4
"""Least repetition penalty that engines get: a logit divided by less may be infinite as a 32-bit float."""


def read_sampling(options: pb.SamplingOptions, violations: Violations) -> Sampling:
    """Read every sampling parameter, with its default where the caller set none.

    Engines compute in 32-bit floats. A value that is too small for them is replaced by the nearest that
    an engine can use, and the report shows the value that was used.
    """
    temperature = violations.number(options, TEMPERATURE)
    if temperature < GREEDY_BELOW:
        temperature = 0.0
    repetition = violations.number(options, REPETITION_PENALTY)
    has_seed = options.HasField("seed")
    return Sampling(
        temperature=temperature,
        top_p=violations.number(options, TOP_P),
        top_k=max(0, int(violations.number(options, TOP_K))),
        min_p=violations.number(options, MIN_P),
        frequency_penalty=violations.number(options, FREQUENCY_PENALTY),
        presence_penalty=violations.number(options, PRESENCE_PENALTY),
        repetition_penalty=max(repetition, LEAST_REPETITION),
        # A drawn seed has 53 bits, because JSON readers that know only floats keep no more.
        seed=options.seed % 2**64 if has_seed else secrets.randbits(53),
        reproducible=has_seed or temperature == 0.0,
    )


def read_logit_bias(options: pb.SamplingOptions, violations: Violations) -> Mapping[int, float]:
    """Read the biases: token id → bias, in the order of the ids; not yet checked against a vocabulary."""
    violations.check_count(LOGIT_BIAS.field, len(options.logit_bias), LOGIT_BIAS.max_items, "token ids")
    bias = dict(sorted(options.logit_bias.items()))
    for token_id, value in bias.items():
        if violations.is_full:
            break
        violations.check(f"{LOGIT_BIAS.field}[{token_id}]", value, LOGIT_BIAS)
    return {token_id: as_float32(value) for token_id, value in bias.items()}


MAX_TOKENS = PARAMETERS["max_tokens"]
STOP = PARAMETERS["stop"]
STOP_TOKEN_IDS = PARAMETERS["stop_token_ids"]


@dataclass(frozen=True)
class TokenLimits:
    """The operator's limits on the tokens of a choice."""

    default: int = int(MAX_TOKENS.default or 0)
    """Where a request sets no `max_tokens`."""
    most: int = int(MAX_TOKENS.high)
    """Greatest `max_tokens` of a request."""

    @cached_property
    def parameter(self) -> Parameter:
        """`max_tokens`, with the operator's default and limit."""
        return replace(MAX_TOKENS, default=self.default, high=self.most)


@dataclass(frozen=True, slots=True)
class Stopping:
    """The conditions that end a generation."""

    max_tokens: int | None
    """None: the caller set none, and the default applies as far as it fits."""
    stops: Sequence[str]
    stop_token_ids: Sequence[int]
    """As the caller listed them, not yet checked against a vocabulary."""
    ignore_eos: bool
    include_stop: bool
    """Keep the stop sequence in the text."""
    whole_tokens: bool = False
    """The caller reads tokens, not text: a stop sequence that begins within a token is kept, as tokens."""


def read_stopping(options: pb.StoppingOptions, limits: TokenLimits, violations: Violations) -> Stopping:
    """Read every condition that ends a generation."""
    return Stopping(
        max_tokens=_max_tokens(options, limits, violations),
        stops=_stops(options, violations),
        stop_token_ids=_stop_token_ids(options, violations),
        ignore_eos=options.ignore_eos,
        include_stop=options.include_stop,
    )


def _max_tokens(options: pb.StoppingOptions, limits: TokenLimits, violations: Violations) -> int | None:
    if not options.HasField("max_tokens"):
        return None
    return int(violations.number(options, limits.parameter))


def _stops(options: pb.StoppingOptions, violations: Violations) -> Sequence[str]:
    violations.check_count(STOP.field, len(options.stop), STOP.max_items, "sequences")
    for number, stop in enumerate(options.stop):
        if violations.is_full:
            break
        violations.check_length(f"{STOP.field}[{number}]", stop, 1, STOP.max_length)
    return tuple(options.stop)


def _stop_token_ids(options: pb.StoppingOptions, violations: Violations) -> Sequence[int]:
    violations.check_count(STOP_TOKEN_IDS.field, len(options.stop_token_ids), STOP_TOKEN_IDS.max_items, "ids")
    return tuple(options.stop_token_ids)


CHOICES = PARAMETERS["n"]
TOP_LOGPROBS = PARAMETERS["top_logprobs"]
MAX_CHOICES = 32
"""Most choices of a request, for all its prompts together."""

MAX_LOGPROBS = 250_000
"""Most log probabilities of an answer: its tokens and all their alternatives together."""


@dataclass(frozen=True, slots=True)
class Output:
    """The parts of an answer."""

    n: int
    """Choices for each prompt."""
    logprobs: int | None
    """None: no log probabilities; else how many alternatives to return beside each token."""
    echo: bool


def read_output(options: pb.OutputOptions, prompt: Prompt | BatchPrompt, violations: Violations) -> Output:
    """Read what the answer holds, and check it against the kind of prompt."""
    n = int(violations.number(options, CHOICES))
    prompts = len(prompt.prompts) if isinstance(prompt, BatchPrompt) else 1
    if prompts * n > MAX_CHOICES:
        violations.add(
            CHOICES.field, f"is {n} for {prompts} prompts; a request may have {MAX_CHOICES} choices."
        )
    output = Output(n, _logprobs(options, violations), options.echo)
    if output.echo and isinstance(prompt, ChatPrompt):
        violations.add("output.echo", "is only for prompts that are no conversation.")
    if output.echo and output.logprobs is not None:
        violations.add(
            "output.echo",
            "with `output.logprobs` is not supported: prompts have none.",
            "unsupported_parameter",
        )
    return output


def check_logprobs(output: Output, prompts: int, max_tokens: int, violations: Violations) -> None:
    """Add a violation for an answer that may have more than MAX_LOGPROBS log probabilities."""
    if output.logprobs is None:
        return
    count = prompts * output.n * max_tokens * (output.logprobs + 1)
    if count > MAX_LOGPROBS:
        violations.add(
            TOP_LOGPROBS.field,
            f"is {output.logprobs}, with {prompts * output.n} choices of {max_tokens} tokens: "
            f"up to {count} log probabilities; an answer may have {MAX_LOGPROBS}.",
        )


def _logprobs(options: pb.OutputOptions, violations: Violations) -> int | None:
    top = int(violations.number(options, TOP_LOGPROBS))
    if options.logprobs:
        return top
    if top:
        violations.add(TOP_LOGPROBS.field, "is only for requests with `output.logprobs`.")
    return None


ConstraintKind = Literal["json_object", "json_schema", "regex", "grammar"]
WHITESPACE = PARAMETERS["whitespace"]
_WHITESPACES = {
    pb.WHITESPACE_UNSPECIFIED: Whitespace.COMPACT,
    pb.WHITESPACE_COMPACT: Whitespace.COMPACT,
    pb.WHITESPACE_FLEXIBLE: Whitespace.FLEXIBLE,
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint as the caller wrote it, not yet compiled."""

    kind: ConstraintKind
    source: str
    """Empty for `json_object`."""
    whitespace: Whitespace = Whitespace.COMPACT
    """Between the parts of JSON."""

    @property
    def field(self) -> str:
        """Its path in the protocol, `constraint.<kind>`."""
        return constraint_field(self.kind)


def constraint_field(kind: ConstraintKind) -> str:
    """The path of a kind of constraint in the protocol."""
    return f"constraint.{kind}"


def read_constraint(message: pb.Constraint, violations: Violations) -> Constraint | None:
    """Read the constraint of a request. None, with a violation, where no kind is set."""
    kind = message.WhichOneof("kind")
    whitespace = _WHITESPACES.get(message.whitespace)
    if whitespace is None:
        known = ", ".join(f"`{pb.Whitespace.Name(value)}`" for value in _WHITESPACES if value)
        violations.add(WHITESPACE.field, f"must be one of {known}.")
        whitespace = Whitespace.COMPACT
    if kind is None:
        violations.add_missing("constraint.kind")
        return None
    if kind == "json_object":
        if not message.json_object:
            violations.add("constraint.json_object", "must be true where it is set.")
        return Constraint(kind, "", whitespace)
    source = getattr(message, kind)
    if not source:
        violations.add(constraint_field(kind), "must not be empty.")
    return Constraint(kind, source, whitespace)
