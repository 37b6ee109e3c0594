"""What became of a request's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EffectiveSampling:
    """The sampling options in effect, defaults included; `GenerateOptions` has their ranges."""

    temperature: float = 0.0
    """0: decoded greedily."""
    top_p: float = 0.0
    """Nucleus mass."""
    top_k: int = 0
    """0 or less: off."""
    min_p: float = 0.0
    """0: off."""
    frequency_penalty: float = 0.0
    """0: off."""
    presence_penalty: float = 0.0
    """0: off."""
    repetition_penalty: float = 0.0
    """1: off."""
    seed: int = 0
    """The request's, or the random one that was drawn for it. Further choices derive theirs from it."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """What was added to the logits, by token id."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a request's parameters. A service that is older than reports sends one of zeroes."""

    ignored_parameters: tuple[str, ...] = ()
    """What the request held to no effect, by its path in the protocol: `stopping.include_stop`; a field that
    the service does not know as `sampling.field 99`."""
    sampling: EffectiveSampling = field(default_factory=EffectiveSampling)
    """The sampling options in effect."""
    max_tokens: int = 0
    """The token limit in effect, for each choice; 1 or more."""
    batch_size: int = 0
    """Generations that ran in the engine when this one entered it, itself included; 0: it never did."""
    queue_estimate_ms: float = 0.0
    """How long a request would wait now, in milliseconds; of a validation only."""
