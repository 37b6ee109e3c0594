"""Expands a schema into alternatives: a disjunction of facts without the schema's logic.

`allOf`, `anyOf`, `oneOf`, `not`, `if`, dependencies and references are resolved. What they require of
members and elements is kept as goals, which are expanded later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from itertools import combinations

from inference_service.constraints.errors import MAX_ALTERNATIVES, ConstraintError, check_time
from inference_service.constraints.json_schema.demands import (
    Demand,
    Disjunction,
    Item,
    Option,
    append_members,
    array_demands,
    be_one_of,
    be_typed,
    denied_number,
    language_of_pattern,
    number_demands,
    object_demands,
    only_types,
    other_types,
    raise_to,
    type_names,
)
from inference_service.constraints.json_schema.document import Schema, value_key
from inference_service.constraints.json_schema.evaluation import holds_all
from inference_service.constraints.json_schema.facts import (
    Atom,
    Contained,
    Elements,
    Facts,
    Goal,
    Members,
    followed,
)
from inference_service.constraints.json_schema.keywords import JSON_TYPES
from inference_service.constraints.json_schema.strings import NUMBER_FORMATS, language_of_format
from inference_service.constraints.nodes import Complement

_MAX_RIVALS = 20_000
"""Pairs of branches of one `oneOf` that may hold together."""


class Expansion:
    """Expands goals.

    Args:
        exclude: whether it surely cannot be that two schemas hold together.
        ignore: is called with the path of each keyword that is not enforced.

    """

    def __init__(self, exclude: Callable[[Schema, Schema], bool], ignore: Callable[[str], None]) -> None:
        self._exclude = exclude
        self._ignore = ignore
        self._denied_by: dict[Schema, tuple[Schema, str]] = {}
        """The keyword that first denied a schema."""

    def alternatives(self, goal: Goal) -> list[Facts]:
        """Expand a goal; no alternatives if nothing can agree with it.

        Raises:
            ConstraintError: it cannot be done exactly, or there are too many.

        """
        found = []
        for facts in self._expand(deque(goal), [], Facts()):
            if facts.values is not None:
                facts.values = [value for value in facts.values if holds_all(goal, value)]
                if not facts.values:
                    continue
            else:
                for name, error in facts.unsupported:
                    if name in facts.types:
                        raise error
            found.append(facts)
            if len(found) > MAX_ALTERNATIVES:
                raise self._too_many(goal)
        return found

    def _too_many(self, goal: Goal) -> ConstraintError:
        for schema, _ in goal:
            for keyword in ("oneOf", "anyOf", "not", "dependencies", "dependentRequired", "dependentSchemas"):
                if keyword in schema.keywords:
                    return schema.unsupported(keyword, f"it has more than {MAX_ALTERNATIVES} alternatives")
        return ConstraintError(f"it has more than {MAX_ALTERNATIVES} alternatives", goal[0][0].path)

    def _expand(
        self,
        agenda: deque[Item],
        pending: list[Disjunction],
        facts: Facts,
        done: frozenset[Atom] = frozenset(),
    ) -> Iterator[Facts]:
        seen = set(done)
        while agenda:
            item = agenda.popleft()
            if callable(item):
                item(facts)
                continue
            if item in seen:
                continue
            seen.add(item)
            schema, holds = item
            if (schema, not holds) in seen:
                return
            conjunction = self._asserted(schema) if holds else [self._denied(schema)]
            for disjunction in conjunction:
                if len(disjunction) == 1:
                    agenda.extend(disjunction[0])
                else:
                    pending.append(disjunction)
        if not facts.settle():
            return
        if not pending:
            yield facts
            return
        first, *rest = sorted(pending, key=len)
        for option in first:
            yield from self._expand(deque(option), [*rest], facts.copy(), frozenset(seen))

    def _deny(self, schema: Schema, by: Schema, keyword: str) -> Atom:
        self._denied_by.setdefault(schema, self._denied_by.get(by, (by, keyword)))
        return schema, False

    # -- what holds -------------------------------------------------------------------------------------

    def _asserted(self, schema: Schema) -> list[Disjunction]:
        """The demands of a schema: a conjunction."""
        if isinstance(schema.value, bool):
            return [] if schema.value else [[]]
        keywords = schema.keywords
        found: list[Disjunction] = [[list(self._plain_demands(schema))]]
        if "$ref" in keywords:
            found.append([[(followed(schema.reference), True)]])
        found += [[[(schema.child("allOf", i), True)]] for i in range(len(keywords.get("allOf", ())))]
        for keyword in ("anyOf", "oneOf"):
            if keyword in keywords:
                found.append(self._union(schema, keyword))
        if "not" in keywords:
            found.append([[self._deny(schema.child("not"), schema, "not")]])
        if "if" in keywords and ("then" in keywords or "else" in keywords):
            condition = schema.child("if")
            then: Option = [(schema.child("then"), True)] if "then" in keywords else []
            otherwise: Option = [(schema.child("else"), True)] if "else" in keywords else []
            denied = self._deny(condition, schema, "if")
            found.append([[(condition, True), *then], [denied, *otherwise]])
        found += self._dependencies(schema)
        return found

    def _union(self, schema: Schema, keyword: str) -> Disjunction:
        # A oneOf that is dropped stands here as an anyOf: its branches stay.
        source = keyword if isinstance(schema.value, dict) and keyword in schema.value else "oneOf"
        branches = [schema.child(source, i) for i in range(len(schema.keywords[keyword]))]
        if keyword == "anyOf":
            return [[(branch, True)] for branch in branches]
        options: Disjunction = []
        count = 0
        for branch, rivals in zip(branches, _rivals(branches), strict=True):
            check_time()
            others = [other for other in rivals if other is not branch and not self._exclude(branch, other)]
            options.append([(branch, True), *(self._deny(other, schema, "oneOf") for other in others)])
            count += len(others)
            if count > _MAX_RIVALS:
                raise schema.unsupported("oneOf", "too many of its branches may hold together")
        if len(set(branches)) < len(branches):
            # The same branch twice never holds once only.
            return [
                option
                for option, branch in zip(options, branches, strict=True)
                if branches.count(branch) == 1
            ]
        return options

    def _dependencies(self, schema: Schema) -> Iterator[Disjunction]:
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            for name, value in schema.keywords.get(keyword, {}).items():
                lacks: Disjunction = [
                    [self._lacks(name)],
                    [partial(only_types, types=JSON_TYPES - {"object"})],
                ]
                if isinstance(value, list):
                    has: Option = [self._has(name), *map(self._has, value)]
                else:
                    has = [self._has(name), (schema.child(keyword, name), True)]
                yield [has, *lacks]

    @staticmethod
    def _has(name: str) -> Demand:
        def demand(facts: Facts) -> None:
            only_types(facts, {"object"})
            facts.required.setdefault(name)

        return demand

    @staticmethod
    def _lacks(name: str) -> Demand:
        def demand(facts: Facts) -> None:
            only_types(facts, {"object"})
            facts.absent.setdefault(name)

        return demand

    def _plain_demands(self, schema: Schema) -> Iterator[Demand]:
        """Demands without alternatives."""
        keywords = schema.keywords
        if "type" in keywords:
            yield partial(be_typed, names=type_names(keywords))
        if "enum" in keywords:
            yield partial(be_one_of, values=keywords["enum"])
        if "const" in keywords:
            yield partial(be_one_of, values=[keywords["const"]])
        yield from number_demands(schema)
        yield from self._string_demands(schema)
        yield from array_demands(schema)
        yield from object_demands(schema)

    def _string_demands(self, schema: Schema) -> Iterator[Demand]:
        keywords = schema.keywords
        if "minLength" in keywords:
            yield lambda facts: raise_to(facts.length, keywords["minLength"])
        if "maxLength" in keywords:
            yield lambda facts: facts.length.at_most(keywords["maxLength"])
        if "pattern" in keywords:
            language = language_of_pattern(schema, "pattern", keywords["pattern"])
            yield lambda facts: facts.languages.append(language)
        name = keywords.get("format")
        if name is not None and name not in NUMBER_FORMATS:
            formatted = language_of_format(name)
            if formatted is None:
                self._ignore(f"{schema.path}.format")
            else:
                yield lambda facts: facts.languages.append(formatted)

    # -- what must not hold -----------------------------------------------------------------------------

    def _denied(self, schema: Schema) -> Disjunction:
        """The ways in which a value can disagree with a schema."""
        if isinstance(schema.value, bool):
            return [] if schema.value else [[]]
        keywords = schema.keywords
        found = [*self._denied_branches(schema), *self._denied_plain(schema)]
        if "$ref" in keywords:
            found.append([self._deny(schema.reference, schema, "$ref")])
        if "not" in keywords:
            found.append([(schema.child("not"), True)])
        if "if" in keywords:
            condition = schema.child("if")
            if "then" in keywords:
                found.append([(condition, True), self._deny(schema.child("then"), schema, "then")])
            if "else" in keywords:
                found.append(
                    [self._deny(condition, schema, "if"), self._deny(schema.child("else"), schema, "else")]
                )
        return found

    def _denied_branches(self, schema: Schema) -> Disjunction:
        keywords = schema.keywords
        found: Disjunction = []
        for index in range(len(keywords.get("allOf", ()))):
            found.append([self._deny(schema.child("allOf", index), schema, "allOf")])
        for keyword in ("anyOf", "oneOf"):
            branches = [schema.child(keyword, i) for i in range(len(keywords.get(keyword, ())))]
            if branches:
                found.append([self._deny(branch, schema, keyword) for branch in branches])
            if keyword == "oneOf":
                found += [[(one, True), (two, True)] for one, two in combinations(branches, 2)]
        return found

    def _denied_plain(self, schema: Schema) -> Iterator[Option]:
        keywords = schema.keywords
        if "type" in keywords:
            yield from other_types(type_names(keywords))
        values = [*keywords.get("enum", ()), *([keywords["const"]] if "const" in keywords else ())]
        if "enum" in keywords and "const" in keywords:
            values = [value for value in keywords["enum"] if value_key(value) == value_key(keywords["const"])]
        if values:
            yield [lambda facts: facts.excluded.extend(values)]
        yield from denied_number(schema)
        yield from self._denied_string(schema)
        yield from self._denied_array(schema)
        yield from self._denied_object(schema)

    def _denied_string(self, schema: Schema) -> Iterator[Option]:
        keywords = schema.keywords
        is_string = partial(only_types, types={"string"})
        if keywords.get("minLength", 0) > 0:
            yield [is_string, lambda facts: facts.length.at_most(keywords["minLength"] - 1)]
        if "maxLength" in keywords:
            yield [is_string, lambda facts: raise_to(facts.length, keywords["maxLength"] + 1)]
        if "pattern" in keywords:
            language = language_of_pattern(schema, "pattern", keywords["pattern"], widest=True)
            yield [is_string, lambda facts: facts.languages.append(Complement(language))]
        name = keywords.get("format")
        if name is not None and name not in NUMBER_FORMATS and language_of_format(name) is not None:
            yield self._impossible(schema, "format", "string")

    def _denied_array(self, schema: Schema) -> Iterator[Option]:
        keywords = schema.keywords
        is_array = partial(only_types, types={"array"})
        if keywords.get("minItems", 0) > 0:
            yield [is_array, lambda facts: facts.element_count.at_most(keywords["minItems"] - 1)]
        if "maxItems" in keywords:
            yield [is_array, lambda facts: raise_to(facts.element_count, keywords["maxItems"] + 1)]
        if "items" in keywords and "prefixItems" not in keywords:
            denied = self._deny(schema.child("items"), schema, "items")
            yield [is_array, lambda facts: facts.contained.append(Contained(denied))]
        elif "items" in keywords or "prefixItems" in keywords:
            yield self._impossible(schema, "items" if "items" in keywords else "prefixItems", "array")
        if keywords.get("uniqueItems"):
            yield self._impossible(schema, "uniqueItems", "array")
        if "contains" in keywords:
            if keywords.get("minContains", 1) != 1 or "maxContains" in keywords:
                yield self._impossible(schema, "contains", "array")
            else:
                none = self._deny(schema.child("contains"), schema, "contains")
                yield [is_array, lambda facts: facts.elements.append(Elements(rest=none))]

    def _denied_object(self, schema: Schema) -> Iterator[Option]:
        keywords = schema.keywords
        is_object = partial(only_types, types={"object"})
        for name in keywords.get("required", ()):
            yield [self._lacks(name)]
        for name in keywords.get("properties", {}):
            denied = self._deny(schema.child("properties", name), schema, "properties")
            member = Members({name: denied})
            yield [self._has(name), partial(append_members, members=member)]
        if keywords.get("minProperties", 0) > 0:
            yield [is_object, lambda facts: facts.member_count.at_most(keywords["minProperties"] - 1)]
        if "maxProperties" in keywords:
            yield [is_object, lambda facts: raise_to(facts.member_count, keywords["maxProperties"] + 1)]
        for keyword in ("patternProperties", "propertyNames"):
            if keyword in keywords:
                yield self._impossible(schema, keyword, "object")
        if keywords.get("additionalProperties", True) not in (True, {}):
            yield self._impossible(schema, "additionalProperties", "object")
        yield from self._denied_dependencies(schema)

    def _denied_dependencies(self, schema: Schema) -> Iterator[Option]:
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            for name, value in schema.keywords.get(keyword, {}).items():
                if isinstance(value, list):
                    for other in value:
                        yield [self._has(name), self._lacks(other)]
                else:
                    denied = self._deny(schema.child(keyword, name), schema, keyword)
                    yield [self._has(name), denied]

    def _impossible(self, schema: Schema, keyword: str, type_name: str) -> Option:
        """A way to disagree that cannot be described."""
        by, denying = self._denied_by.get(schema, (schema, keyword))
        error = by.unsupported(denying, f"what is not valid under {keyword} cannot be described exactly")

        def demand(facts: Facts) -> None:
            only_types(facts, {type_name})
            facts.unsupported.append((type_name, error))

        return [demand]


def _rivals(branches: list[Schema]) -> list[list[Schema]]:
    """For each branch those that may hold beside it: a member that all require may tell them apart."""
    tags = [_tags(branch) for branch in branches]
    names = set(tags[0]).intersection(*tags[1:])
    if not names:
        return [branches] * len(branches)
    name = min(names)
    holders: dict[Hashable, list[int]] = {}
    for index, tag in enumerate(tags):
        for key in tag[name]:
            holders.setdefault(key, []).append(index)
    return [[branches[i] for i in sorted({i for key in tag[name] for i in holders[key]})] for tag in tags]


def _tags(schema: Schema) -> dict[str, set[Hashable]]:
    """The members that an object has to have by a schema, with the few values that it names for them."""
    schema = followed(schema)
    keywords = schema.keywords
    if not _must_be_object(keywords):
        return {}
    found: dict[str, set[Hashable]] = {}
    for name in keywords.get("required", ()):
        if name in keywords.get("properties", {}):
            member = followed(schema.child("properties", name)).keywords
            values = member.get("enum", [member["const"]] if "const" in member else [])
            if values:
                found[name] = set(map(value_key, values))
    return found


def _must_be_object(keywords: dict[str, object]) -> bool:
    return keywords.get("type") == "object" and keywords.get("nullable") is not True
