"""Writes numbers as grammar: their limits and multiples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.grammar import GrammarBuilder
from inference_service.constraints.json_schema.facts import Bound, NumberFacts, exact
from inference_service.constraints.json_text import (
    DIGIT,
    DIGIT_1_9,
    INTEGER,
    MAX_DECIMALS,
    MAX_DIGITS,
    NUMBER,
)
from inference_service.constraints.nodes import (
    EMPTY,
    NOTHING,
    Literal,
    Node,
    Ref,
    chars,
    either,
    maybe,
    repeat,
    seq,
    terminal,
)

_GREATEST = 10**MAX_DIGITS - 1
_MAX_LISTED = 1_000
_MAX_REMAINDERS = 500
_PRECISION = 15
"""Digits that a 64-bit float tells apart, wherever they stand."""
_USUAL_WHOLE_DIGITS = 9
_MAX_WHOLE_DIGITS = 13
_MAX_EXTRA_DECIMALS = 10


def number_node(facts: NumberFacts, excluded: Sequence[Any], builder: GrammarBuilder) -> Node:
    """Describe numbers.

    Args:
        facts: what all of them have in common.
        excluded: numbers that none of them is.
        builder: for rules, where multiples need them.

    Raises:
        ConstraintError: they cannot be described exactly.

    """
    points = sorted({exact(value) for value in excluded})
    if points:
        return either(*(number_node(part, (), builder) for part in _without(facts, points)))
    step = _step(facts)
    if step is not None:
        return _multiples(facts, step, builder)
    if facts.is_integer:
        return terminal(_integers(facts))
    return terminal(_numbers(facts) if facts.is_integer is None else _no_integers(facts))


def _without(facts: NumberFacts, points: list[Fraction]) -> list[NumberFacts]:
    """The numbers between the points."""
    ends = [None, *(Bound(point, is_exclusive=True) for point in points), None]
    parts = []
    for low, high in pairwise(ends):
        part = NumberFacts(facts.is_integer, facts.low, facts.high, facts.multiples)
        if low is not None:
            part.at_least(low.value, is_exclusive=True)
        if high is not None:
            part.at_most(high.value, is_exclusive=True)
        if not part.is_void:
            parts.append(part)
    return parts


def _step(facts: NumberFacts) -> Fraction | None:
    """The number of which all are multiples: the least common multiple."""
    steps = [*facts.multiples, *([Fraction(1)] if facts.is_integer and facts.multiples else [])]
    if not steps or steps == [1]:
        return None if not steps else Fraction(1)
    scale = math.lcm(*(step.denominator for step in steps))
    return Fraction(math.lcm(*(int(step * scale) for step in steps)), scale)


def _range(facts: NumberFacts, step: int) -> tuple[int, int]:
    """The first and the last multiple of a step, divided by it; without bounds, of 18 digits at most."""
    low, high = facts.low, facts.high
    least, most = -_GREATEST, _GREATEST
    if low is not None:
        least = math.ceil(low.value) + (low.is_exclusive and low.value.denominator == 1)
        most = max(most, least + _GREATEST) if high is None else most
    if high is not None:
        most = math.floor(high.value) - (high.is_exclusive and high.value.denominator == 1)
        least = min(least, most - _GREATEST) if low is None else least
    return -(-least // step), most // step


def _integers(facts: NumberFacts) -> Node:
    if facts.low is None and facts.high is None:
        return INTEGER
    first, last = _range(facts, 1)
    return NOTHING if first > last else _signed(first, last)


def _signed(low: int, high: int) -> Node:
    options: list[Node] = []
    if low <= 0 <= high:
        options.append(seq("0"))
    if high > 0:
        options.append(whole_numbers(max(low, 1), high))
    if low < 0:
        options.append(seq("-", whole_numbers(max(-high, 1), -low)))
    return either(*options)


def _no_integers(facts: NumberFacts) -> Node:
    if facts.low is not None or facts.high is not None:
        raise ConstraintError("numbers within limits that are no integers cannot be described exactly")
    whole = either("0", seq(DIGIT_1_9, repeat(DIGIT, 0, _MAX_WHOLE_DIGITS - 1)))
    # More digits could be read back as an integer.
    return seq(maybe("-"), whole, ".", repeat(DIGIT, 0, 1), DIGIT_1_9)


def _numbers(facts: NumberFacts) -> Node:
    low, high = facts.low, facts.high
    if low is None and high is None:
        return NUMBER
    options = [
        *(_positive(_above_zero(low), high) if high is None or high.value >= 0 else ()),
        *(seq("-", node) for node in _negative(low, high)),
    ]
    return either(*options) if options else NOTHING


def _above_zero(low: Bound | None) -> Bound:
    return low if low is not None and low.value >= 0 else Bound(Fraction(0), is_exclusive=False)


def _negative(low: Bound | None, high: Bound | None) -> list[Node]:
    if low is not None and low.value >= 0:
        return []
    # Minus zero is zero: where zero is in, it is already there without a sign.
    nearest = Bound(Fraction(0), is_exclusive=True)
    if high is not None and high.value < 0:
        nearest = Bound(-high.value, high.is_exclusive)
    return _positive(nearest, None if low is None else Bound(-low.value, low.is_exclusive))


def _places(value: Fraction) -> int:
    """Decimals that a number needs."""
    places = 0
    while value.denominator != 1:
        places, value = places + 1, value * 10
        if places > MAX_DECIMALS:
            raise ConstraintError(f"numbers of more than {MAX_DECIMALS} decimals are not supported")
    return places


def _positive(low: Bound, high: Bound | None) -> list[Node]:
    whole = max(len(str(int(bound.value))) for bound in (low, high) if bound is not None)
    if high is None:
        whole = max(whole + 1, _USUAL_WHOLE_DIGITS)
        high = Bound(Fraction(10**whole), is_exclusive=True)
    places = max(_places(low.value), _places(high.value))
    extra = min(_PRECISION - whole - places, _MAX_EXTRA_DECIMALS)
    if whole > _MAX_WHOLE_DIGITS or extra < 1:
        # Further decimals could be read back as a limit itself.
        extra = 0
    return [*_on_grid(low, high, places), *(_between_grid(low, high, places, extra) if extra else ())]


def _on_grid(lower: Bound, upper: Bound, places: int) -> list[Node]:
    """Numbers of at most so many decimals as the limits have."""
    options = []
    for count in range(places + 1):
        scale = 10**count
        low, high = lower.value * scale, upper.value * scale
        least = math.ceil(low) + (lower.is_exclusive and low.denominator == 1)
        most = math.floor(high) - (upper.is_exclusive and high.denominator == 1)
        if least <= most:
            options.append(decimals(least, most, count))
    return options


def _between_grid(lower: Bound, upper: Bound, places: int, extra: int) -> list[Node]:
    """Numbers of more decimals: one on the grid, and digits behind it."""
    first = int(lower.value * 10**places)
    last = int(upper.value * 10**places) - 1
    point = "" if places else "."
    options: list[Node] = []
    if lower.is_exclusive and first <= last:
        not_zero = seq(repeat(DIGIT, 0, extra - 1), DIGIT_1_9)
        options.append(seq(decimals(first, first, places), point, not_zero))
        first += 1
    if first <= last:
        options.append(seq(decimals(first, last, places), point, repeat(DIGIT, 1, extra)))
    if not upper.is_exclusive:
        # The upper limit itself, with zeros behind it.
        top = int(upper.value * 10**places)
        options.append(seq(decimals(top, top, places), point, repeat("0", 1, extra)))
    return options


def _multiples(facts: NumberFacts, step: Fraction, builder: GrammarBuilder) -> Node:
    if facts.is_integer is False:
        raise ConstraintError("multiples that are no integers cannot be described exactly")
    places = _places(step)
    scale = 10**places
    whole = int(step * scale)
    scaled = NumberFacts(
        True,
        None if facts.low is None else Bound(facts.low.value * scale, facts.low.is_exclusive),
        None if facts.high is None else Bound(facts.high.value * scale, facts.high.is_exclusive),
    )
    first, last = _range(scaled, whole)
    if first > last:
        return NOTHING
    if last - first < _MAX_LISTED:
        return terminal(either(*(_decimal(n * whole, places) for n in range(first, last + 1))))
    if whole == 1 and places and facts.low is None and facts.high is None:
        digits = either("0", seq(DIGIT_1_9, repeat(DIGIT, 0, _PRECISION - 1 - places)))
        return terminal(seq(maybe("-"), digits, maybe(seq(".", repeat(DIGIT, 1, places)))))
    zeros = str(whole)[1:]
    if str(whole) == f"1{zeros}" and not zeros.strip("0") and not places:
        return terminal(_times_ten(_signed(first, last), first, last, zeros))
    return _by_remainders(facts, whole, places, builder)


def _times_ten(node: Node, first: int, last: int, zeros: str) -> Node:
    """Numbers with zeros behind them; zero itself without."""
    if not zeros or not first <= 0 <= last:
        return seq(node, zeros)
    parts: list[Node] = [Literal("0")]
    if last > 0:
        parts.append(seq(_signed(1, last), zeros))
    if first < 0:
        parts.append(seq(_signed(first, -1), zeros))
    return either(*parts)


def _decimal(scaled: int, places: int) -> str:
    """A number scaled by 10**places, without zeros at its end."""
    if not places:
        return str(scaled)
    sign, digits = "-" if scaled < 0 else "", str(abs(scaled)).zfill(places + 1)
    return f"{sign}{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")


def _by_remainders(facts: NumberFacts, whole: int, places: int, builder: GrammarBuilder) -> Node:
    """Multiples of any size: a rule for each remainder that the digits so far can have."""
    if whole * (places + 1) > _MAX_REMAINDERS:
        raise ConstraintError(f"multiples with more than {_MAX_REMAINDERS} remainders are not supported")
    low = facts.low
    if facts.high is not None or (low is not None and (low.value != 0 or (low.is_exclusive and places))):
        raise ConstraintError("multipleOf with one bound other than 0 is not supported")
    digits = _Remainders(whole, places, builder).node(with_zero=low is None or not low.is_exclusive)
    return digits if low is not None else either(digits, seq("-", digits))


class _Remainders:
    """Rules for the digits of multiples of a whole number, which the decimals are scaled to."""

    def __init__(self, whole: int, places: int, builder: GrammarBuilder) -> None:
        self._whole = whole
        self._places = places
        self._builder = builder
        self._name = f"multiple-{whole}-{places}"
        self._decimals: dict[tuple[int, int], Ref] = {}

    def node(self, *, with_zero: bool) -> Node:
        rules = [self._builder.promise(self._name) for _ in range(self._whole)]
        for remainder, rule in enumerate(rules):
            options: list[Node] = [seq(str(d), rules[self._next(remainder, d)]) for d in range(10)]
            if (remainder * 10**self._places) % self._whole == 0:
                options.append(EMPTY)
            if self._places:
                options.append(seq(".", self._behind_point(remainder, 0)))
            self._builder.define(rule, either(*options))
        first: list[Node] = [seq(str(d), rules[self._next(0, d)]) for d in range(1, 10)]
        if with_zero:
            first.append(seq("0"))
            if self._places:
                first.append(seq("0.", self._behind_point(0, 0)))
        return either(*first)

    def _next(self, remainder: int, digit: int) -> int:
        return (remainder * 10 + digit) % self._whole

    def _behind_point(self, remainder: int, count: int) -> Ref:
        """The rule for what may follow behind `count` decimals."""
        key = (remainder, count)
        if key not in self._decimals:
            self._decimals[key] = rule = self._builder.promise(f"{self._name}-decimals")
            options: list[Node] = []
            if count and (remainder * 10 ** (self._places - count)) % self._whole == 0:
                options.append(EMPTY)
            if count < self._places:
                options += [
                    seq(str(d), self._behind_point(self._next(remainder, d), count + 1)) for d in range(10)
                ]
            self._builder.define(rule, either(*options))
        return self._decimals[key]


def whole_numbers(low: int, high: int) -> Node:
    """Describe the integers from `low` to `high`, both included, without sign or leading zeros.

    Args:
        low: 0 or more.
        high: not less than `low`.

    """
    options: list[Node] = []
    full: list[int] = []
    for width in range(len(str(low)), len(str(high)) + 1):
        least, most = max(low, 10 ** (width - 1) if width > 1 else 0), min(high, 10**width - 1)
        if width > 1 and (least, most) == (10 ** (width - 1), 10**width - 1):
            full.append(width)
        else:
            options.append(_between(str(least), str(most), width))
    if full:
        options.append(seq(DIGIT_1_9, repeat(DIGIT, full[0] - 1, full[-1] - 1)))
    return either(*options)


def decimals(low: int, high: int, places: int) -> Node:
    """Describe the numbers from `low` to `high`, both scaled by 10**places, with exactly `places` decimals.

    Args:
        low: 0 or more.
        high: not less than `low`.
        places: 0 or more; with 0 there is no point.

    """
    if places == 0:
        return whole_numbers(low, high)
    options = []
    for width in range(max(len(str(low)), places + 1), max(len(str(high)), places + 1) + 1):
        least = max(low, 10 ** (width - 1) if width > places + 1 else 0)
        most = min(high, 10**width - 1)
        options.append(_between(str(least).zfill(width), str(most).zfill(width), width - places))
    return either(*options)


def _between(low: str, high: str, point: int) -> Node:
    """Describe the digit strings between two of the same length, with a point behind `point` digits."""
    if point == 0:
        return seq(".", _between(low, high, len(low))) if low else seq()
    if not low:
        return seq()
    if low == "0" * len(low) and high == "9" * len(high):
        return _any_digits(len(low), point)
    first, last = low[0], high[0]
    rest, next_point = len(low) - 1, point - 1
    if first == last:
        return seq(first, _between(low[1:], high[1:], next_point))
    options: list[Node] = []
    start, stop = int(first), int(last)
    if low[1:] != "0" * rest:
        options.append(seq(first, _between(low[1:], "9" * rest, next_point)))
        start += 1
    if high[1:] != "9" * rest:
        options.append(seq(last, _between("0" * rest, high[1:], next_point)))
        stop -= 1
    if start <= stop:
        options.append(seq(chars(f"{start}{stop}"), _any_digits(rest, next_point)))
    return either(*options)


def _any_digits(count: int, point: int) -> Node:
    if point >= count:
        return repeat(DIGIT, count, count)
    return seq(repeat(DIGIT, point, point), ".", repeat(DIGIT, count - point, count - point))
