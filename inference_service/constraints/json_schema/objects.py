"""Writes objects as grammar: first the named members in their order, then further ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from inference_service.constraints.automata import is_empty
from inference_service.constraints.errors import ConstraintError, check_time
from inference_service.constraints.json_schema.evaluation import holds_all, is_found
from inference_service.constraints.json_schema.facts import Atom, Facts, Goal, goal_of
from inference_service.constraints.json_text import dumps, free_text, written
from inference_service.constraints.nodes import (
    ANY_CHAR,
    EMPTY,
    NOTHING,
    Complement,
    Literal,
    Node,
    both,
    either,
    repeat,
    seq,
    terminal,
)
from inference_service.constraints.regex import found_text

if TYPE_CHECKING:
    from inference_service.constraints.json_schema.compiler import SchemaCompiler

MAX_PATTERNS = 6
MAX_COUNTED = 64
_RULE_EVERY = 32
"""Members from one rule to the next, where no optional one leads to a rule."""
_ANY_TEXT = repeat(ANY_CHAR, 0)


@dataclass(frozen=True, slots=True)
class _Member:
    """A member that is known by its name."""

    name: str
    node: Node
    is_required: bool


def object_node(compiler: SchemaCompiler, facts: Facts) -> Node:
    """Describe objects: members in the order of `properties`, then of `required`, then others.

    Raises:
        ConstraintError: they cannot be described exactly.

    """
    return _ObjectWriter(compiler, facts).node()


def goal_of_member(facts: Facts, name: str) -> Goal:
    """The schemas that the member of this name has to agree with.

    Raises:
        ConstraintError: a pattern is not supported.

    """
    atoms: list[Atom] = []
    for members in facts.members:
        found = [atom for pattern, atom in members.patterns if is_found(pattern, name)]
        if name in members.properties:
            found.append(members.properties[name])
        if not found and members.additional is not None:
            found.append(members.additional)
        atoms += found
    return goal_of(atoms)


def known_names(facts: Facts) -> dict[str, None]:
    """Names that schemas speak of, in order."""
    found: dict[str, None] = {}
    for members in facts.members:
        found.update(dict.fromkeys(members.properties))
    found.update(facts.required)
    found.update(facts.absent)
    return found


class _ObjectWriter:
    def __init__(self, compiler: SchemaCompiler, facts: Facts) -> None:
        self._compiler = compiler
        self._builder = compiler.builder
        self._marks = compiler.json.marks
        self._facts = facts
        self._known = known_names(facts)
        self._members = [member for name in self._known if (member := self._member(name)) is not None]
        self._least = facts.member_count.least
        self._most = facts.member_count.most
        required = sum(member.is_required for member in self._members)
        if self._least <= required:
            self._least = 0
        self._others = self._other_members()
        if self._most is not None and self._others == NOTHING and self._most >= len(self._members):
            self._most = None
        counted = max(self._least, self._most or 0)
        if counted > MAX_COUNTED and self._members:
            raise ConstraintError(
                f"counts of members above {MAX_COUNTED} beside named ones are not supported"
            )
        self._cap = max(1, counted)
        self._tails: dict[tuple[int, int], Node] = {}

    def node(self) -> Node:
        if any(member.is_required and member.node == NOTHING for member in self._members):
            return NOTHING
        if not self._members:
            if self._others == NOTHING:
                return seq(self._marks.begin_object, self._marks.end_object) if self._least == 0 else NOTHING
            return self._compiler.json.members(self._others, self._least, self._most)
        body = self._body()
        by_required = self._by_required()
        if by_required is not None:
            self._members = by_required
            self._tails = {}
            body = either(body, self._body())
        return seq(self._marks.begin_object, body, self._marks.end_object)

    def _body(self) -> Node:
        """All members. Their tails are made from the last one on: thousands of members are no recursion."""
        reached = [{0}]
        for member in self._members:
            following = {min(count + 1, self._cap) for count in reached[-1]}
            reached.append(following if member.is_required else following | reached[-1])
        for index in range(len(self._members), 0, -1):
            check_time()
            for count in reached[index]:
                self._tail(index, count)
        return self._tail(0, 0)

    def _by_required(self) -> list[_Member] | None:
        """The members with those of `required` first, in its order; None if that is the same order."""
        named = {member.name: member for member in self._members}
        order = [name for name in self._facts.required if name in named]
        order += [name for name in named if name not in self._facts.required]
        return None if order == [*named] else [named[name] for name in order]

    def _member(self, name: str) -> _Member | None:
        is_required = name in self._facts.required
        if name in self._facts.absent or not holds_all(self._facts.names, name):
            return _Member(name, NOTHING, is_required=True) if is_required else None
        try:
            text = dumps(name)
        except ValueError:
            raise ConstraintError("the name of a member has half a surrogate pair") from None
        goal = goal_of_member(self._facts, name)
        value = self._compiler.node_of(goal)
        if value == NOTHING and not is_required:
            return None
        return _Member(name, seq(terminal(seq(text, self._marks.colon)), value), is_required)

    def _tail(self, index: int, count: int) -> Node:
        """The rest of an object from a member on, once `count` members are written; counted up to the cap."""
        key = (index, count)
        if key not in self._tails:
            self._tails[key] = self._make_tail(index, count)
        return self._tails[key]

    def _make_tail(self, index: int, count: int) -> Node:
        if index == len(self._members):
            return self._other_tail(count)
        member = self._members[index]
        options: list[Node] = []
        if self._most is None or count < self._most:
            comma = self._marks.comma if count else EMPTY
            options.append(seq(comma, member.node, self._tail(index + 1, min(count + 1, self._cap))))
        if not member.is_required:
            options.append(self._tail(index + 1, count))
        node = either(*options) if options else NOTHING
        # Tails that two others lead to are rules, so that the grammar grows with the members only; and so are
        # some of the others, so that no node has thousands inside it.
        is_shared = not member.is_required and index + 1 < len(self._members)
        if node != NOTHING and index % _RULE_EVERY == _RULE_EVERY - 1 and index + 1 < len(self._members):
            return self._builder.rule("members", node)
        return self._builder.rule("members", node) if is_shared and isinstance(node, type(NOTHING)) else node

    def _other_tail(self, count: int) -> Node:
        least = max(0, self._least - count)
        most = None if self._most is None else self._most - count
        if self._others == NOTHING:
            return NOTHING if least else EMPTY
        if count:
            return repeat(seq(self._marks.comma, self._others), least, most)
        return self._compiler.json.listed(self._others, least, most)

    # -- members that are not known by name --------------------------------------------------------------

    def _other_members(self) -> Node:
        if self._most is not None and self._most <= 0:
            return NOTHING
        groups: dict[Goal, list[Node | None]] = {}
        for language, goal in self._classes():
            groups.setdefault(goal, []).append(language)
        options = []
        for goal, languages in groups.items():
            value = self._compiler.node_of(goal)
            if value != NOTHING:
                options.append(seq(self._key(languages), value))
        node = either(*options) if options else NOTHING
        return node if node == NOTHING else self._builder.rule("member", node)

    def _classes(self) -> Iterable[tuple[Node | None, Goal]]:
        """Names that match the same patterns, with what their members have to agree with."""
        patterns = dict.fromkeys(
            pattern for members in self._facts.members for pattern, _ in members.patterns
        )
        if len(patterns) > MAX_PATTERNS:
            raise ConstraintError(f"more than {MAX_PATTERNS} patterns for the members of one object")
        languages = {pattern: found_text(pattern) for pattern in patterns}
        widest = {pattern: found_text(pattern, widest=True) for pattern in patterns}
        for count in range(len(patterns) + 1):
            for matched in combinations(patterns, count):
                check_time()
                goal = self._goal_of_class(frozenset(matched))
                if self._compiler.is_void(goal):
                    continue
                parts = [languages[pattern] for pattern in matched]
                parts += [Complement(widest[pattern]) for pattern in patterns if pattern not in matched]
                language = self._name_language(parts)
                if language != NOTHING:
                    yield language, goal

    def _goal_of_class(self, matched: frozenset[str]) -> Goal:
        atoms: list[Atom] = []
        for members in self._facts.members:
            found = [atom for pattern, atom in members.patterns if pattern in matched]
            if not found and members.additional is not None:
                found = [members.additional]
            atoms += found
        return goal_of(atoms)

    def _name_language(self, parts: list[Node]) -> Node | None:
        """Names with these properties that are none of the known ones; None for any name."""
        if self._facts.names:
            names = self._compiler.texts_of(goal_of(self._facts.names))
            if names == NOTHING:
                return NOTHING
            parts += [names] if names is not None else []
        if self._known:
            parts.append(Complement(either(*map(Literal, self._known))))
        if not parts:
            return None
        if all(isinstance(part, Complement) for part in parts):
            parts.insert(0, _ANY_TEXT)
        language = both(*parts)
        return NOTHING if is_empty(language) else language

    def _key(self, languages: list[Node | None]) -> Node:
        if None in languages:
            inner = free_text()
        else:
            inner = either(*(written(language) for language in languages if language is not None))
        return terminal(seq('"', inner, '"', self._marks.colon))
