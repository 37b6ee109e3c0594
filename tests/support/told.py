"""What a caller learns, in one form whichever door it came through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

CUT = frozenset({"stop_sequence", "stop_token", "tool_calls", "content_filter"})
"""Causes that the service finds: how far the engine was by then is a matter of time."""


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a token was."""

    token: str
    logprob: float
    raw: bytes | None
    """Its bytes; None where the reply does not tell."""
    top: tuple[tuple[str, float], ...]
    """What else could have stood here, in the reply's order; in no order of its own: by name."""


@dataclass(frozen=True, slots=True)
class ToldChoice:
    """One choice."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    ending: tuple[str, str | int | None, str | None] | None = None
    """Its cause, the stop that was met, and the filter's rule; None: not told."""
    tool_calls: tuple[tuple[str, str, str], ...] = ()
    """Id, name and arguments of each."""
    logprobs: tuple[Score, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer, or the refusal."""

    choices: tuple[ToldChoice, ...] = ()
    usage: tuple[int, int] | None = None
    """Prompt and completion tokens."""
    parameters: Mapping[str, Any] | None = None
    """Those in effect, less a seed that was drawn."""
    ignored: frozenset[str] = frozenset()
    """What of the request has no effect."""
    error: str | None = None
    """The code of the refusal."""
    param: str | None = None
    message: str = field(default="", compare=False)
    """What the refusal says."""

    @property
    def text(self) -> str | None:
        """Of the first choice."""
        return self.choices[0].text if self.choices else None

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """Of the first choice."""
        return self.choices[0].token_ids if self.choices else None

    @property
    def finish_reason(self) -> str | None:
        """Of the first choice."""
        return self.choices[0].finish_reason if self.choices else None


def check_alike(one: Answer, other: Answer, tolerance: float = 0.0) -> None:
    """Two answers are the same; log probabilities may differ by `tolerance`.

    Tokens that the engine made beyond the place where the service ended a choice are not compared.
    """
    assert _without_numbers(one) == _without_numbers(other)
    assert _numbers(one) == pytest.approx(_numbers(other), abs=tolerance)


def _without_numbers(answer: Answer) -> Answer:
    choices = tuple(replace(c, logprobs=_names(c.logprobs)) for c in answer.choices)
    usage = answer.usage
    if usage is not None and any(c.ending is not None and c.ending[0] in CUT for c in choices):
        assert usage[1] >= sum(len(c.token_ids) for c in choices)
        usage = (usage[0], 0)
    return replace(answer, choices=choices, usage=usage)


def _names(scores: Sequence[Score] | None) -> tuple[Score, ...] | None:
    if scores is None:
        return None
    return tuple(Score(s.token, 0.0, s.raw, tuple((name, 0.0) for name, _ in s.top)) for s in scores)


def _numbers(answer: Answer) -> list[float]:
    scores = [score for choice in answer.choices for score in choice.logprobs or ()]
    return [number for score in scores for number in (score.logprob, *(value for _, value in score.top))]
