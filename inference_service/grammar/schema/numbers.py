"""Integers and numbers within limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from inference_service.grammar.builder import GrammarBuilder
from inference_service.grammar.digits import decimals, whole_numbers
from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.json_text import DIGIT, DIGIT_1_9, MOST_DIGITS, json_integer, json_number
from inference_service.grammar.nodes import Node, either, repeat, seq

_GREATEST = 10**MOST_DIGITS - 1
_MOST_LISTED = 1_000
_PRECISION = 15
"""Digits that a 64-bit float tells apart, wherever they stand."""
_USUAL_WHOLE_DIGITS = 9
_MOST_WHOLE_DIGITS = 13
_MOST_EXTRA_DECIMALS = 10
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


@dataclass(frozen=True, slots=True)
class _Bound:
    value: Fraction
    is_exclusive: bool

    @property
    def places(self) -> int:
        """Decimals that it needs."""
        places, value = 0, self.value
        while value.denominator != 1:
            places, value = places + 1, value * 10
        return places


@dataclass(frozen=True, slots=True)
class _Magnitudes:
    """Numbers of one sign, without it."""

    low: _Bound
    high: _Bound


def integer_node(builder: GrammarBuilder, schema: Mapping[str, Any], path: str) -> Node:
    """Describe integers of at most 18 digits.

    Raises:
        ConstraintError: there are none within the limits, or `multipleOf` cannot be kept.

    """
    step = _step(schema, path)
    low, high = _limits(schema)
    if low is None and high is None and step == 1:
        return json_integer(builder)
    least = -_GREATEST if low is None else math.ceil(low.value) + (low.is_exclusive and _is_whole(low))
    most = _GREATEST if high is None else math.floor(high.value) - (high.is_exclusive and _is_whole(high))
    first, last = -(-max(least, -_GREATEST) // step), min(most, _GREATEST) // step
    if first > last:
        raise ConstraintError(f"no integer of at most {MOST_DIGITS} digits is within the limits", path)
    if step == 1:
        return _signed(first, last, "")
    if last - first < _MOST_LISTED:
        return either(*(str(number * step) for number in range(first, last + 1)))
    zeros = str(step)[1:]
    if str(step) != f"1{zeros}" or zeros.strip("0"):
        raise ConstraintError("multipleOf is supported for powers of ten and for short ranges", path)
    return _signed(first, last, zeros)


def _is_whole(bound: _Bound) -> bool:
    return bound.value.denominator == 1


def _step(schema: Mapping[str, Any], path: str) -> int:
    step = Fraction(schema.get("multipleOf", 1))
    if step.denominator != 1:
        raise ConstraintError("multipleOf is supported for integers only", path)
    return step.numerator


def _signed(low: int, high: int, zeros: str) -> Node:
    options: list[Node] = []
    if low <= 0 <= high:
        options.append(seq("0"))
    if high > 0:
        options.append(seq(whole_numbers(max(low, 1), high), zeros))
    if low < 0:
        options.append(seq("-", whole_numbers(max(-high, 1), -low), zeros))
    return either(*options)


def number_node(builder: GrammarBuilder, schema: Mapping[str, Any], path: str) -> Node:
    """Describe numbers; within limits they have at most 15 digits and no exponent.

    More digits than a 64-bit float tells apart could be read back as a limit itself.

    Raises:
        ConstraintError: there are none within the limits, or these or `multipleOf` cannot be kept.

    """
    if "multipleOf" in schema:
        return integer_node(builder, schema, path)
    low, high = _limits(schema)
    if low is None and high is None:
        return json_number(builder)
    options = [
        *(_positive(_above_zero(low), high, path) if high is None or high.value >= 0 else ()),
        *(seq("-", node) for node in _negative(low, high, path)),
    ]
    if not options:
        raise ConstraintError("no number is within the limits", path)
    return either(*options)


def _limits(schema: Mapping[str, Any]) -> tuple[_Bound | None, _Bound | None]:
    bounds = {name: _exact(schema[name]) for name in _BOUNDS if name in schema}
    lower = [_Bound(bounds[n], n != "minimum") for n in ("minimum", "exclusiveMinimum") if n in bounds]
    upper = [_Bound(bounds[n], n != "maximum") for n in ("maximum", "exclusiveMaximum") if n in bounds]
    low = max(lower, key=lambda bound: (bound.value, bound.is_exclusive), default=None)
    high = min(upper, key=lambda bound: (bound.value, not bound.is_exclusive), default=None)
    return low, high


def _exact(number: int | float) -> Fraction:
    # As it is written, not as the float is stored: 0.1 is a tenth.
    return Fraction(number) if isinstance(number, int) else Fraction(Decimal(repr(number)))


def _above_zero(low: _Bound | None) -> _Bound:
    return low if low is not None and low.value >= 0 else _Bound(Fraction(0), is_exclusive=False)


def _negative(low: _Bound | None, high: _Bound | None, path: str) -> list[Node]:
    if low is not None and low.value >= 0:
        return []
    # Minus zero is zero: where zero is in, it is already there without a sign.
    nearest = _Bound(Fraction(0), is_exclusive=True)
    if high is not None and high.value < 0:
        nearest = _Bound(-high.value, high.is_exclusive)
    return _positive(nearest, None if low is None else _Bound(-low.value, low.is_exclusive), path)


def _positive(low: _Bound, high: _Bound | None, path: str) -> list[Node]:
    whole = max(len(str(int(bound.value))) for bound in (low, high) if bound is not None)
    if high is None:
        whole = max(whole + 1, _USUAL_WHOLE_DIGITS)
        high = _Bound(Fraction(10**whole), is_exclusive=True)
    places = max(low.places, high.places)
    extra = min(_PRECISION - whole - places, _MOST_EXTRA_DECIMALS)
    if whole > _MOST_WHOLE_DIGITS or extra < 1:
        raise ConstraintError(f"limits of more than {_PRECISION - 1} digits are not supported", path)
    magnitudes = _Magnitudes(low, high)
    return [*_on_grid(magnitudes, places), *_between_grid(magnitudes, places, extra)]


def _on_grid(numbers: _Magnitudes, places: int) -> list[Node]:
    """Numbers of at most so many decimals as the limits have."""
    options = []
    for count in range(places + 1):
        scale = 10**count
        low, high = numbers.low.value * scale, numbers.high.value * scale
        least = math.ceil(low) + (numbers.low.is_exclusive and low.denominator == 1)
        most = math.floor(high) - (numbers.high.is_exclusive and high.denominator == 1)
        if least <= most:
            options.append(decimals(least, most, count))
    return options


def _between_grid(numbers: _Magnitudes, places: int, extra: int) -> list[Node]:
    """Numbers of more decimals: one on the grid, and digits behind it."""
    first = int(numbers.low.value * 10**places)
    last = int(numbers.high.value * 10**places) - 1
    point = "" if places else "."
    options: list[Node] = []
    if numbers.low.is_exclusive and first <= last:
        not_zero = seq(repeat(DIGIT, 0, extra - 1), DIGIT_1_9)
        options.append(seq(decimals(first, first, places), point, not_zero))
        first += 1
    if first <= last:
        options.append(seq(decimals(first, last, places), point, repeat(DIGIT, 1, extra)))
    return options
