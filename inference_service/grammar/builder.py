"""Grammars put together from parts, without two parts' rules getting in each other's way."""

from __future__ import annotations

import re
from collections.abc import Callable

from inference_service.grammar.check import check_rules
from inference_service.grammar.lowering import lower
from inference_service.grammar.nodes import EMPTY, Node, Ref
from inference_service.grammar.printer import print_rules

_TAKEN = {"root", "true", "false"}
"""Names with a meaning of their own, in our grammars or in xgrammar's."""
_LONGEST_NAME = 40


class GrammarBuilder:
    """Collects rules; `build` makes the text of a grammar out of them."""

    def __init__(self) -> None:
        self._rules: dict[str, Node] = {}
        self._places: dict[str, str] = {}
        self._shared: dict[str, Ref] = {}

    def rule(self, name: str, node: Node, place: str = "") -> Ref:
        """Add a rule under this name or one like it.

        Args:
            name: any text; characters that no rule name has are replaced.
            node: what the rule says.
            place: where it comes from, for errors.

        """
        ref = self.promise(name, place)
        self.keep(ref, node)
        return ref

    def promise(self, name: str, place: str = "") -> Ref:
        """Name a rule that `keep` will define, so that it may speak of itself."""
        ref = Ref(self._free_name(name))
        self._rules[ref.name] = EMPTY
        if place:
            self._places[ref.name] = place
        return ref

    def keep(self, ref: Ref, node: Node) -> None:
        """Define the rule that was promised."""
        self._rules[ref.name] = node

    def shared(self, name: str, make: Callable[[], Node]) -> Ref:
        """The one rule of this name, made at its first use. Its parts may use it already."""
        if name not in self._shared:
            self._shared[name] = self.promise(name)
            self.keep(self._shared[name], make())
        return self._shared[name]

    def build(self, root: Node) -> str:
        """Check the grammar whose texts are those of `root`, and print it.

        Raises:
            ConstraintError: no text satisfies it, or it is too large.

        """
        rules = lower({**self._rules, "root": root})
        check_rules(rules, self._places)
        return print_rules(rules)

    def _free_name(self, wish: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9]+", "-", wish).strip("-").lower()[:_LONGEST_NAME]
        stem = stem if stem[:1].isalpha() else f"r-{stem}" if stem else "rule"
        name, number = stem, 2
        while name in self._rules or name in _TAKEN:
            name, number = f"{stem}-{number}", number + 1
        return name
