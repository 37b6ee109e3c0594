"""How tokens are chosen, and when a generation ends: sampling and stopping parameters."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.backends.types import GREEDY_BELOW, Sampling
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


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """How many tokens a choice gets: the operator's settings."""

    default: int = int(MAX_TOKENS.default or 0)
    """Where a request does not say."""
    most: int = int(MAX_TOKENS.high)
    """That a request may ask for."""

    @property
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
