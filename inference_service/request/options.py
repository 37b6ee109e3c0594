"""How tokens are chosen, when a generation ends, what the answer holds, and the constraint on its text."""

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
"""What a smaller repetition penalty becomes: a logit divided by less may be infinite as a 32-bit float."""


def read_sampling(options: pb.SamplingOptions, wrong: Violations) -> Sampling:
    """Every sampling parameter, with its default where the caller gave none.

    Engines compute in 32-bit floats. Values that are too small for them become what an engine can do, and
    the report says so.
    """
    temperature = wrong.number(options, TEMPERATURE)
    if temperature < GREEDY_BELOW:
        temperature = 0.0
    repetition = wrong.number(options, REPETITION_PENALTY)
    has_seed = options.HasField("seed")
    return Sampling(
        temperature=temperature,
        top_p=wrong.number(options, TOP_P),
        top_k=max(0, int(wrong.number(options, TOP_K))),
        min_p=wrong.number(options, MIN_P),
        frequency_penalty=wrong.number(options, FREQUENCY_PENALTY),
        presence_penalty=wrong.number(options, PRESENCE_PENALTY),
        repetition_penalty=max(repetition, LEAST_REPETITION),
        # Drawn ones survive JSON readers that have no integers but 53 bits of a float.
        seed=options.seed % 2**64 if has_seed else secrets.randbits(53),
        reproducible=has_seed or temperature == 0.0,
    )


def read_logit_bias(options: pb.SamplingOptions, wrong: Violations) -> Mapping[int, float]:
    """Token id to bias, in the order of the ids; not yet checked against a vocabulary."""
    wrong.check_count(LOGIT_BIAS.field, len(options.logit_bias), LOGIT_BIAS.max_items, "token ids")
    bias = dict(sorted(options.logit_bias.items()))
    for token_id, value in bias.items():
        if wrong.is_full:
            break
        wrong.check(f"{LOGIT_BIAS.field}[{token_id}]", value, LOGIT_BIAS)
    return {token_id: as_float32(value) for token_id, value in bias.items()}


MAX_TOKENS = PARAMETERS["max_tokens"]
STOP = PARAMETERS["stop"]
STOP_TOKEN_IDS = PARAMETERS["stop_token_ids"]


@dataclass(frozen=True)
class TokenLimits:
    """How many tokens a choice gets: the operator's settings."""

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
    """When to end."""

    max_tokens: int | None
    """None: the caller set none; the default or what fits."""
    stops: Sequence[str]
    stop_token_ids: Sequence[int]
    """As the caller listed them, not yet checked against a vocabulary."""
    ignore_eos: bool
    include_stop: bool
    """Keep the stop sequence that was met."""


def read_stopping(options: pb.StoppingOptions, limits: TokenLimits, wrong: Violations) -> Stopping:
    """Every condition that ends a generation."""
    return Stopping(
        max_tokens=_max_tokens(options, limits, wrong),
        stops=_stops(options, wrong),
        stop_token_ids=_stop_token_ids(options, wrong),
        ignore_eos=options.ignore_eos,
        include_stop=options.include_stop,
    )


def _max_tokens(options: pb.StoppingOptions, limits: TokenLimits, wrong: Violations) -> int | None:
    if not options.HasField("max_tokens"):
        return None
    return int(wrong.number(options, limits.parameter))


def _stops(options: pb.StoppingOptions, wrong: Violations) -> Sequence[str]:
    wrong.check_count(STOP.field, len(options.stop), STOP.max_items, "sequences")
    for number, stop in enumerate(options.stop):
        if wrong.is_full:
            break
        wrong.check_length(f"{STOP.field}[{number}]", stop, 1, STOP.max_length)
    return tuple(options.stop)


def _stop_token_ids(options: pb.StoppingOptions, wrong: Violations) -> Sequence[int]:
    wrong.check_count(STOP_TOKEN_IDS.field, len(options.stop_token_ids), STOP_TOKEN_IDS.max_items, "ids")
    return tuple(options.stop_token_ids)


CHOICES = PARAMETERS["n"]
TOP_LOGPROBS = PARAMETERS["top_logprobs"]
MAX_CHOICES = 32
"""Of all prompts of a request together."""

MAX_SCORES = 250_000
"""Log probabilities of an answer: of its tokens and of all their alternatives together."""


@dataclass(frozen=True, slots=True)
class Output:
    """What an answer holds."""

    n: int
    """Choices for each prompt."""
    logprobs: int | None
    """None: no log probabilities; else how many alternatives beside the token's own."""
    echo: bool


def read_output(options: pb.OutputOptions, prompt: Prompt | BatchPrompt, wrong: Violations) -> Output:
    """What is asked for, checked against the kind of prompt."""
    n = int(wrong.number(options, CHOICES))
    prompts = len(prompt.prompts) if isinstance(prompt, BatchPrompt) else 1
    if prompts * n > MAX_CHOICES:
        wrong.add(CHOICES.field, f"is {n} for {prompts} prompts; a request may have {MAX_CHOICES} choices.")
    output = Output(n, _logprobs(options, wrong), options.echo)
    if output.echo and isinstance(prompt, ChatPrompt):
        wrong.add("output.echo", "is only for prompts that are no conversation.")
    if output.echo and output.logprobs is not None:
        wrong.add(
            "output.echo",
            "with `output.logprobs` is not supported: prompts have none.",
            "unsupported_parameter",
        )
    return output


def check_scores(output: Output, prompts: int, max_tokens: int, wrong: Violations) -> None:
    """Note an answer that would be too large to send at once."""
    if output.logprobs is None:
        return
    scores = prompts * output.n * max_tokens * (output.logprobs + 1)
    if scores > MAX_SCORES:
        wrong.add(
            TOP_LOGPROBS.field,
            f"is {output.logprobs}, with {prompts * output.n} choices of {max_tokens} tokens: "
            f"up to {scores} log probabilities; an answer may have {MAX_SCORES}.",
        )


def _logprobs(options: pb.OutputOptions, wrong: Violations) -> int | None:
    top = int(wrong.number(options, TOP_LOGPROBS))
    if options.logprobs:
        return top
    if top:
        wrong.add(TOP_LOGPROBS.field, "is only for requests with `output.logprobs`.")
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
        """Its path in the protocol."""
        return constraint_field(self.kind)


def constraint_field(kind: ConstraintKind) -> str:
    """The path of a kind of constraint in the protocol."""
    return f"constraint.{kind}"


def read_constraint(message: pb.Constraint, wrong: Violations) -> Constraint | None:
    """The constraint of a request, if it has one."""
    kind = message.WhichOneof("kind")
    whitespace = _WHITESPACES.get(message.whitespace)
    if whitespace is None:
        known = ", ".join(f"`{pb.Whitespace.Name(value)}`" for value in _WHITESPACES if value)
        wrong.add(WHITESPACE.field, f"must be one of {known}.")
        whitespace = Whitespace.COMPACT
    if kind is None:
        wrong.missing("constraint.kind")
        return None
    if kind == "json_object":
        if not message.json_object:
            wrong.add("constraint.json_object", "must be true where it is set.")
        return Constraint(kind, "", whitespace)
    source = getattr(message, kind)
    if not source:
        wrong.add(constraint_field(kind), "must not be empty.")
    return Constraint(kind, source, whitespace)
