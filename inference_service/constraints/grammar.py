"""The compiled constraint: rules that describe exactly the permitted answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from inference_service.constraints.errors import MAX_ELEMENTS, MAX_RULES, ConstraintError, check_time
from inference_service.constraints.nodes import (
    NOTHING,
    Chars,
    Choice,
    Intersection,
    Literal,
    Node,
    Ref,
    Repeat,
    Rules,
    Sequence,
    Terminal,
    either,
    parts_outside_terminals,
    repeat,
    seq,
    size_of,
    terminal,
    walk,
)

if TYPE_CHECKING:
    from inference_service.constraints.matching import Matcher

_RESERVED = {"root", "true", "false"}
"""Names with a meaning of their own, in our grammars or in an engine's."""
_MAX_NAME = 40
_MAX_INLINED = 20_000
"""Elements of a rule that is put in where it is used."""


@dataclass(frozen=True, eq=False)
class Grammar:
    """A constraint, parsed and checked: what crosses the seam to the engines.

    Engines print it in their own notation (`notations/`). Every rule describes at least one text, no rule
    begins with itself, and `root` describes the whole answer.
    """

    rules: Rules
    ignored: tuple[str, ...] = field(default=())
    """Paths of schema keywords that the grammar does not enforce."""

    def matches(self, text: str) -> bool:
        """Whether the grammar describes this text."""
        return self._matcher.matches(text)

    def shortest_text(self) -> str:
        """A shortest text that the grammar describes, always the same one."""
        return self._shortest_text

    @cached_property
    def _shortest_text(self) -> str:
        from inference_service.constraints.sentence import shortest_text

        return shortest_text(self.rules)

    @cached_property
    def _matcher(self) -> Matcher:
        # Imported late: code that only prints grammars need not wait for it.
        from inference_service.constraints.matching import Matcher

        return Matcher(self.rules)


class GrammarBuilder:
    """Collects rules, so that the parts of a grammar may be made apart from each other."""

    def __init__(self) -> None:
        self._rules: dict[str, Node] = {}
        self._places: dict[str, str] = {}
        self._shared: dict[str, Ref] = {}
        self._names: dict[str, int] = {}
        self._blamed = ""
        self.ignored: dict[str, None] = {}
        """Paths of schema keywords that are not enforced, in order."""

    def rule(self, name: str, node: Node, place: str = "") -> Ref:
        """Add a rule under this name or one like it.

        Args:
            name: any text; characters that no rule name has are replaced.
            node: what the rule says.
            place: where it comes from, for errors.

        """
        ref = self.promise(name, place)
        self.define(ref, node)
        return ref

    def promise(self, name: str, place: str = "") -> Ref:
        """Name a rule that `define` will define, so that it may speak of itself."""
        ref = Ref(self._free_name(name))
        self._rules[ref.name] = NOTHING
        if len(self._rules) > MAX_RULES:
            raise ConstraintError(f"it needs more than {MAX_RULES} rules")
        if place:
            self._places[ref.name] = place
        return ref

    def define(self, ref: Ref, node: Node) -> None:
        """Define the rule that was promised."""
        self._rules[ref.name] = node

    def shared(self, name: str, make: Callable[[], Node]) -> Ref:
        """The one rule of this name, made at its first use. Its parts may use it already."""
        if name not in self._shared:
            self._shared[name] = self.promise(name)
            self.define(self._shared[name], make())
        return self._shared[name]

    def blame(self, place: str) -> None:
        """Tell where nothing can be, in case that nothing satisfies the whole."""
        self._blamed = self._blamed or place

    def build(self, root: Node) -> Grammar:
        """Check the rules whose texts are those of `root`, and drop what they do not need.

        A rule that is built begins with a lexeme before it may come to itself.

        Raises:
            ConstraintError: no text satisfies it, or it is too large.

        """
        places = {"root": self._blamed, **self._places} if self._blamed else self._places
        rules = {**self._rules, "root": root}
        return make_grammar(rules, places, tuple(self.ignored), may_begin_with_itself=False)

    def _free_name(self, wish: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9]+", "-", wish).strip("-").lower()[:_MAX_NAME]
        stem = stem if stem[:1].isalpha() else f"r-{stem}" if stem else "rule"
        name = stem
        while name in self._rules or name in _RESERVED:
            self._names[stem] = self._names.get(stem, 1) + 1
            name = f"{stem}-{self._names[stem]}"
        return name


def make_grammar(
    rules: Rules,
    places: Mapping[str, str],
    ignored: tuple[str, ...] = (),
    *,
    may_begin_with_itself: bool = True,
) -> Grammar:
    """Check rules and drop alternatives that describe nothing.

    Args:
        rules: every reference in them has its rule; `root` among them.
        places: where rules come from, for errors; by name.
        ignored: see `Grammar`.
        may_begin_with_itself: whether a rule of these could, so that it has to be found out.

    Raises:
        ConstraintError: they describe no text, are too large, or a rule begins with itself.

    """
    contents = {name: _Contents(node) for name, node in rules.items()}
    productive = _closure(rules, contents, _is_productive)
    if "root" not in productive:
        place = places.get("root") or next(
            (places[n] for n in rules if n not in productive and n in places), ""
        )
        raise ConstraintError("nothing satisfies it", place)
    needed: dict[str, Node] = {}
    terminals: set[Node] = set()
    waiting, size = ["root"], 0
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed[name], inside = rules[name], contents[name]
        if any(used not in productive for used in inside.uses):
            needed[name] = _pruned(rules[name], productive)
            inside = _Contents(needed[name])
        waiting += inside.uses
        # A lexeme that is used often is printed once.
        size += inside.size
        for part in inside.terminals:
            if part not in terminals:
                terminals.add(part)
                size += sum(map(size_of, walk(part)))
        if size > MAX_ELEMENTS:
            raise ConstraintError(f"it is too large: more than {MAX_ELEMENTS} elements")
    if may_begin_with_itself:
        _refuse_left_recursion(needed, contents, places)
    return Grammar(needed, ignored)


class _Contents:
    """The body of a rule."""

    __slots__ = ("size", "terminals", "uses")

    def __init__(self, node: Node) -> None:
        check_time()
        self.uses: list[str] = []
        """Names of other rules, as often as they stand in it."""
        self.terminals: dict[Terminal, None] = {}
        self.size = 0
        for part in parts_outside_terminals(node):
            if isinstance(part, Ref):
                self.uses.append(part.name)
            elif isinstance(part, Terminal):
                self.terminals[part] = None
            else:
                self.size += size_of(part)


def _closure(
    rules: Rules, contents: Mapping[str, _Contents], holds: Callable[[Node, set[str]], bool]
) -> set[str]:
    """Names of the rules for which something holds that follows from its holding for others."""
    users: dict[str, list[str]] = {name: [] for name in rules}
    for name in rules:
        for used in contents[name].uses:
            if used in users:
                users[used].append(name)
    known: set[str] = set()
    waiting = list(rules)
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        check_time()
        if holds(rules[name], known):
            known.add(name)
            waiting.extend(users[name])
    return known


def _is_productive(node: Node, productive: set[str]) -> bool:
    match node:
        case Ref(name):
            return name in productive
        case Chars(ranges):
            return bool(ranges)
        case Repeat(item, least):
            return least == 0 or _is_productive(item, productive)
        case Choice(options):
            return any(_is_productive(option, productive) for option in options)
        case Sequence(items):
            return all(_is_productive(item, productive) for item in items)
    # Terminals are checked where they are made: see `automata.is_empty`.
    return True


def is_nullable(node: Node, nullable: set[str]) -> bool:
    """Whether a node describes the empty text, if these rules do."""
    match node:
        case Literal(text):
            return not text
        case Ref(name):
            return name in nullable
        case Repeat(item, least):
            return least == 0 or is_nullable(item, nullable)
        case Choice(options):
            return any(is_nullable(option, nullable) for option in options)
        case Sequence(items) | Intersection(items):
            return all(is_nullable(item, nullable) for item in items)
        case Terminal(item):
            return is_nullable(item, nullable)
        case Chars():
            return False
    return not is_nullable(node.item, nullable)


def _pruned(node: Node, productive: set[str]) -> Node:
    match node:
        case Ref(name):
            return node if name in productive else NOTHING
        case Choice(options):
            kept = (_pruned(option, productive) for option in options)
            return either(*(option for option in kept if option != NOTHING))
        case Sequence(items):
            return seq(*(_pruned(item, productive) for item in items))
        case Repeat(item, least, most):
            return repeat(_pruned(item, productive), least, most)
    return node


def _refuse_left_recursion(
    rules: Rules, contents: Mapping[str, _Contents], places: Mapping[str, str]
) -> None:
    nullable = _closure(rules, contents, is_nullable)
    firsts = {name: _firsts(node, nullable) for name, node in rules.items()}
    state: dict[str, bool] = {}
    for start in rules:
        path = [(start, iter(firsts[start]))] if start not in state else []
        state.setdefault(start, False)
        while path:
            name, rest = path[-1]
            first = next(rest, None)
            if first is None:
                path.pop()
                state[name] = True
            elif first not in state:
                state[first] = False
                path.append((first, iter(firsts[first])))
            elif not state[first]:
                place = places.get(first, f"rule {first}")
                raise ConstraintError("it begins with itself (left recursion)", place)


def _firsts(node: Node, nullable: set[str]) -> list[str]:
    """Names of rules that may be at the very beginning."""
    match node:
        case Ref(name):
            return [name]
        case Choice(options):
            return [name for option in options for name in _firsts(option, nullable)]
        case Repeat(item):
            return _firsts(item, nullable)
        case Sequence(items):
            found: list[str] = []
            for item in items:
                found += _firsts(item, nullable)
                if not is_nullable(item, nullable):
                    break
            return found
    return []


def lexed(grammar: Grammar) -> Grammar:
    """Divide a grammar that says nothing of lexemes into some that can be read greedily.

    One without recursion is a single lexeme. In others every character is one, since nothing is known of
    how far a longer lexeme may reach.
    """
    whole = _inlined(Ref("root"), grammar.rules, {}, frozenset())
    if whole is not None:
        return Grammar({"root": terminal(whole)}, grammar.ignored)
    rules = {name: _by_characters(node) for name, node in grammar.rules.items()}
    return Grammar(rules, grammar.ignored)


def _inlined(node: Node, rules: Rules, known: dict[str, Node | None], above: frozenset[str]) -> Node | None:
    """The node with all rules put in; None where they contain themselves, or grow too large."""
    match node:
        case Ref(name):
            if name in above:
                return None
            if name not in known:
                known[name] = _inlined(rules[name], rules, known, above | {name})
                found = known[name]
                if found is not None and sum(map(size_of, walk(found))) > _MAX_INLINED:
                    known[name] = None
            return known[name]
        case Sequence(items) | Choice(items):
            parts = [_inlined(item, rules, known, above) for item in items]
            if any(part is None for part in parts):
                return None
            make = seq if isinstance(node, Sequence) else either
            return make(*(part for part in parts if part is not None))
        case Repeat(item, least, most):
            inner = _inlined(item, rules, known, above)
            return None if inner is None else repeat(inner, least, most)
    return node


def _by_characters(node: Node) -> Node:
    match node:
        case Literal(text):
            return Sequence(tuple(Terminal(Literal(char)) for char in text)) if text else node
        case Sequence(items):
            return seq(*map(_by_characters, items))
        case Choice(options):
            return either(*map(_by_characters, options))
        case Repeat(item, least, most):
            return repeat(_by_characters(item), least, most)
    return node
