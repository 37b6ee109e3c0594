"""Seeds of the choices of one request."""

from __future__ import annotations

_MASK = 2**64 - 1


def choice_seed(seed: int, choice: int) -> int:
    """The seed of a further choice, unsigned, 64 bits: step `choice` of SplitMix64 from the request's seed.

    Constants of Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014. Choice 0
    keeps the request's own, so one choice alone is what it would be among several.
    """
    if not choice:
        return seed
    z = (seed + choice * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
