"""The installed library beside what our code relies on, and beside the double that our tests use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.gpu_smoke.assumptions import Assumed

Kind = Literal["missing", "listed", "double-only", "library-only", "default", "place"]

MEANINGS: Mapping[Kind, str] = {
    "missing": "our code uses it, and the library has it not",
    "listed": "our tables of names hold it, and the library has it not",
    "double-only": "the double of our tests has it, and the library has it not",
    "library-only": "the library has it, and the double has it not",
    "default": "its default is another in the double",
    "place": "it is not where we take it to be, or could not be looked at",
}
"""Worst first."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One name that is not as it was taken to be."""

    kind: Kind
    part: str
    name: str
    note: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.part}.{self.name} ({self.note})"


def compare(
    found: Mapping[str, Any], double: Mapping[str, Any], relied_on: Assumed, listed: Assumed
) -> list[Difference]:
    """Compare two surfaces, and one of them with what is assumed of it. Worst first."""
    differences = [
        *_absent(found, relied_on, "missing"),
        *_absent(found, listed, "listed"),
        *_beside_double(found, double),
    ]
    return sorted(differences, key=lambda difference: list(MEANINGS).index(difference.kind))


def _absent(
    found: Mapping[str, Any], assumed: Assumed, kind: Literal["missing", "listed"]
) -> Iterator[Difference]:
    for part, names in assumed.items():
        there = {*_names(found, part), *(_names(found, "LLM.__init__") if part == "TrtLlmArgs" else ())}
        for name in sorted(names.keys() - there):
            yield Difference(kind, part, name, names[name])


def _beside_double(found: Mapping[str, Any], double: Mapping[str, Any]) -> Iterator[Difference]:
    for part in double["parts"]:
        real, simulated = _names(found, part), _names(double, part)
        where = found["parts"][part]["where"]
        if where is None:
            yield Difference("place", part, "", found["parts"][part]["reason"])
            continue
        for name in sorted(simulated.keys() - real.keys()):
            yield Difference("double-only", part, name, f"looked at in {where}")
        for name in sorted(real.keys() - simulated.keys()):
            yield Difference("library-only", part, name, f"default {real[name]}" if real[name] else where)
        for name in sorted(real.keys() & simulated.keys()):
            if real[name] != simulated[name]:
                yield Difference("default", part, name, f"{real[name]}; in the double {simulated[name]}")


def _names(surface: Mapping[str, Any], part: str) -> Mapping[str, str]:
    names: Mapping[str, str] = surface["parts"][part]["names"]
    return names
