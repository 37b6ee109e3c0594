"""When a generation ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.parse.violations import Knob, Violations

MAX_STOPS = 4
MAX_STOP_LENGTH = 1024
MAX_STOP_TOKEN_IDS = 64


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """How many tokens a choice gets: the operator's settings."""

    default: int = 150
    """Where a request does not say."""
    most: int = 4096
    """That a request may ask for."""

    @property
    def knob(self) -> Knob:
        """The parameter that asks."""
        return Knob("stopping.max_tokens", self.default, 1, self.most)


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
    return int(wrong.number(options, limits.knob))


def _stops(options: pb.StoppingOptions, wrong: Violations) -> Sequence[str]:
    wrong.check_count("stopping.stop", len(options.stop), MAX_STOPS, "sequences")
    for number, stop in enumerate(options.stop[: MAX_STOPS + 1]):
        wrong.check_length(f"stopping.stop[{number}]", stop, 1, MAX_STOP_LENGTH)
    return tuple(options.stop)


def _stop_token_ids(options: pb.StoppingOptions, wrong: Violations) -> Sequence[int]:
    wrong.check_count("stopping.stop_token_ids", len(options.stop_token_ids), MAX_STOP_TOKEN_IDS, "ids")
    return tuple(options.stop_token_ids)
