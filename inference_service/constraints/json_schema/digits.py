"""Writes ranges of decimal numbers as grammar, digit by digit."""

from __future__ import annotations

from inference_service.constraints.json_text import DIGIT, DIGIT_1_9
from inference_service.constraints.nodes import Node, chars, either, repeat, seq


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
