"""When a generation ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.parse.violations import Violations
from lodestream_common.parameters import PARAMETERS, Parameter

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
