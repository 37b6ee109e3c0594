"""How tokens are chosen."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.backends.types import GREEDY_BELOW, Sampling
from inference_service.parse.violations import Violations, as_float32
from lodestream_common.parameters import PARAMETERS

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
