"""Compares the installed library with what our code relies on, and with the double that our tests use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.gpu_smoke.assumptions import Assumed

Kind = Literal["missing", "listed", "double-only", "library-only", "default", "place"]

MEANINGS: Mapping[Kind, str] = {
    "missing": "our code uses it, and the library lacks it",
    "listed": "our tables of names have it, and the library lacks it",
    "double-only": "the double of our tests has it, and the library lacks it",
    "library-only": "the library has it, and the double lacks it",
    "default": "its default differs from that of the double",
    "place": "it is not where our code expects it, or could not be inspected",
}
"""The kinds of differences, the worst first."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One name that differs from what our code or the double expects."""

    kind: Kind
    part: str
    name: str
    note: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.part}.{self.name} ({self.note})"


def compare(
    found: Mapping[str, Any], double: Mapping[str, Any], relied_on: Assumed, listed: Assumed
) -> list[Difference]:
    """Compare the library with the double and with the names that our code expects. The worst comes first."""
    differences = [
        *_absent(found, relied_on, "missing"),
        *_absent(found, listed, "listed"),
        *_compare_with_double(found, double),
    ]
    return sorted(differences, key=lambda difference: list(MEANINGS).index(difference.kind))


def _absent(
    found: Mapping[str, Any], assumed: Assumed, kind: Literal["missing", "listed"]
) -> Iterator[Difference]:
    for part, names in assumed.items():
        there = {*_names(found, part), *(_names(found, "LLM.__init__") if part == "TrtLlmArgs" else ())}
        for name in sorted(names.keys() - there):
            yield Difference(kind, part, name, names[name])


def _compare_with_double(found: Mapping[str, Any], double: Mapping[str, Any]) -> Iterator[Difference]:
    for part in double["parts"]:
        real, simulated = _names(found, part), _names(double, part)
        where = found["parts"][part]["where"]
        if where is None:
            yield Difference("place", part, "", found["parts"][part]["reason"])
            continue
        for name in sorted(simulated.keys() - real.keys()):
            yield Difference("double-only", part, name, f"searched in {where}")
        for name in sorted(real.keys() - simulated.keys()):
            yield Difference("library-only", part, name, f"default {real[name]}" if real[name] else where)
        for name in sorted(real.keys() & simulated.keys()):
            if real[name] != simulated[name]:
                yield Difference("default", part, name, f"{real[name]}; in the double {simulated[name]}")


def _names(surface: Mapping[str, Any], part: str) -> Mapping[str, str]:
    names: Mapping[str, str] = surface["parts"][part]["names"]
    return names
