"""Holds the document of a JSON schema: finds its schemas by place, resolves references, compares values."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator
from functools import cached_property
from typing import Any, NoReturn
from urllib.parse import unquote, urldefrag, urljoin

from inference_service.constraints.errors import ConstraintError, UnsupportedKeyword
from inference_service.constraints.json_schema.keywords import KEYWORDS, MAX_COUNT, Role, check_value

_PLAIN_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")
_OLD_DRAFT = re.compile(r"draft-0?[3-7]\b")
"""In these nothing beside `$ref` counts."""
_COUNTS = frozenset(
    {
        *("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"),
        *("minContains", "maxContains"),
    }
)
_DATA = frozenset({"enum", "const", "default", "example", "examples"})
"""Keywords whose values hold no schemas."""


def read_schema(text: str) -> dict[str, Any] | bool:
    """Parse the text of a schema.

    Raises:
        ConstraintError: it is not JSON, names a member twice, or is neither an object nor a boolean.

    """
    try:
        found = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_members)
    except json.JSONDecodeError as error:
        raise ConstraintError(
            f"the schema is not JSON: {error.msg}", f"line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise ConstraintError("the schema is nested too deep") from None
    except ConstraintError:
        raise
    except ValueError:
        # An integer of thousands of digits.
        raise ConstraintError("a number in the schema is too long") from None
    if isinstance(found, dict | bool):
        return found
    raise ConstraintError("a schema must be an object or a boolean", "$")


def _refuse_constant(name: str) -> NoReturn:
    raise ConstraintError(f"the schema is not JSON: {name} is no JSON number")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ConstraintError("an object in the schema names a member twice")
    return members


def inside(path: str, name: str) -> str:
    """The path of a member."""
    return f"{path}.{name}" if _PLAIN_NAME.fullmatch(name) else f"{path}[{json.dumps(name)}]"


class Schema:
    """One schema of a document. There is one object for each, so they are compared by identity."""

    def __init__(self, document: Document, value: dict[str, Any] | bool, path: str, base: str) -> None:
        self._document = document
        self.value = value
        self.path = path
        self.index = document.count
        """In the order in which schemas were met."""
        own = _identifier(value, is_old=document.is_old) if isinstance(value, dict) else None
        self.base = base if own is None else urljoin(base, own)

    @cached_property
    def keywords(self) -> dict[str, Any]:
        """The demands of the schema, in the keywords of draft 2020-12, with checked values.

        Raises:
            ConstraintError: a keyword has a value that it cannot have.

        """
        if isinstance(self.value, bool):
            return {} if self.value else {"not": True}
        found: dict[str, Any] = {}
        only_reference = "$ref" in self.value and self._document.is_old
        for name, value in self.value.items():
            keyword = KEYWORDS.get(name)
            if keyword is None:
                self._document.ignored.setdefault(inside(self.path, name))
            elif keyword.role is not Role.ANNOTATION and (not only_reference or name == "$ref"):
                self._take(found, name, value)
        return _modern(found)

    def _take(self, found: dict[str, Any], name: str, value: Any) -> None:
        if (self.path, name) in self._document.dropped:
            self._document.ignored.setdefault(inside(self.path, name))
            # What is dropped of a oneOf is that only one branch may hold, not that one has to.
            if name != "oneOf" or (isinstance(self.value, dict) and "anyOf" in self.value):
                return
            name = "anyOf"
        check_value(name, value, self.path)
        found[name] = min(int(value), MAX_COUNT) if name in _COUNTS else value

    def child(self, *names: str | int) -> Schema:
        """The schema in a keyword's value: `child("properties", "a")`, `child("allOf", 0)`."""
        value: Any = self.value
        path = self.path
        for name in names:
            value = value[name]
            path = f"{path}[{name}]" if isinstance(name, int) else inside(path, name)
        return self._document.schema(value, path, self.base)

    @cached_property
    def reference(self) -> Schema:
        """The target of its `$ref`."""
        return self._document.follow(self.keywords["$ref"], self)

    @cached_property
    def listed(self) -> frozenset[Hashable]:
        """The values of its `enum`, as `value_key` gives them."""
        return frozenset(map(value_key, self.keywords["enum"]))

    def unsupported(self, keyword: str, message: str) -> UnsupportedKeyword:
        """An error that names a keyword of this schema."""
        return UnsupportedKeyword(message, self.path, keyword)


def _modern(keywords: dict[str, Any]) -> dict[str, Any]:
    """The same demands in today's words: draft 4's booleans beside bounds, arrays of `items`."""
    for name, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        value = keywords.get(name)
        if isinstance(value, bool):
            del keywords[name]
            if value and bound in keywords:
                keywords[name] = keywords.pop(bound)
    if isinstance(keywords.get("items"), list):
        keywords["prefixItems"] = keywords.pop("items")
    return keywords


class Document:
    """A schema with all that its references lead to.

    Args:
        root: the whole of it.
        path: where it stands, for errors.
        dropped: keywords that are left out, each with the path of its schema.

    """

    def __init__(
        self,
        root: dict[str, Any] | bool,
        path: str = "$",
        dropped: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.ignored: dict[str, None] = {}
        """Paths of keywords that are not enforced, in order."""
        self.dropped = dropped
        self._root_value = root
        self._schemas: dict[int | bool, Schema] = {}
        self._kept: list[Any] = []
        draft = root.get("$schema") if isinstance(root, dict) else None
        self.is_old = isinstance(draft, str) and _OLD_DRAFT.search(draft) is not None
        self._path = path
        self.root = self.schema(root, path, "")

    @property
    def count(self) -> int:
        """Schemas met so far."""
        return len(self._schemas)

    def schema(self, value: Any, path: str, base: str) -> Schema:
        """The schema that stands at a path.

        Raises:
            ConstraintError: what stands there is no schema.

        """
        if not isinstance(value, dict | bool):
            raise ConstraintError("a schema must be an object or a boolean", path)
        # Booleans are one object each; dictionaries are kept by the document, so addresses stay theirs.
        key = id(value)
        if key not in self._schemas:
            self._schemas[key] = Schema(self, value, path, base)
        return self._schemas[key]

    def follow(self, reference: str, origin: Schema) -> Schema:
        """The target of a `$ref`.

        Raises:
            UnsupportedKeyword: it leads out of the document, or nowhere.

        """
        address, fragment = urldefrag(urljoin(origin.base, reference))
        if reference.startswith("#") and not origin.base:
            address = ""
        found = self._resource(address)
        if found is None:
            raise origin.unsupported("$ref", "only references into the schema itself are supported")
        value, path = found
        base = address
        if fragment and not fragment.startswith("/"):
            anchored = self._resources.get(f"{address}#{fragment}")
            if anchored is None:
                raise origin.unsupported("$ref", "this reference leads nowhere")
            return self.schema(*anchored, base)
        for part in unquote(fragment).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and isinstance(value.get("$id"), str):
                base = urljoin(base, value["$id"])
            if isinstance(value, dict) and name in value:
                value, path = value[name], inside(path, name)
            elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(value):
                value, path = value[int(name[:9])], f"{path}[{name}]"
            else:
                raise origin.unsupported("$ref", "this reference leads nowhere")
        return self.schema(value, path, base)

    def _resource(self, address: str) -> tuple[Any, str] | None:
        if address in ("", self.root.base):
            return self._root_value, self._path
        return self._resources.get(address)

    @cached_property
    def _resources(self) -> dict[str, tuple[Any, str]]:
        """Schemas with an `$id` or an `$anchor`, by their absolute addresses."""
        found: dict[str, tuple[Any, str]] = {}
        for value, path, base in identified(self._root_value, self._path, is_old=self.is_old):
            identifier = _identifier(value, is_old=self.is_old)
            if identifier is not None:
                address, fragment = urldefrag(urljoin(base, identifier))
                found.setdefault(f"{address}#{fragment}" if fragment else address, (value, path))
            own = base if identifier is None else urljoin(base, identifier)
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(value.get(keyword), str):
                    found.setdefault(f"{urldefrag(own)[0]}#{value[keyword]}", (value, path))
        return found


def _identifier(value: dict[str, Any], *, is_old: bool) -> str | None:
    """The `$id` of a schema. In old drafts one beside a `$ref` does not count."""
    found = value.get("$id", value.get("id"))
    return found if isinstance(found, str) and not (is_old and "$ref" in value) else None


def identified(
    root: Any, root_path: str, *, is_old: bool = False
) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Every object that may be a schema with a name, its path, and the base of its address."""
    waiting: list[tuple[Any, str, str]] = [(root, root_path, "")]
    while waiting:
        value, path, base = waiting.pop()
        if isinstance(value, dict):
            yield value, path, base
            identifier = _identifier(value, is_old=is_old)
            inner = base if identifier is None else urljoin(base, identifier)
            waiting += [
                (item, inside(path, name), inner) for name, item in value.items() if name not in _DATA
            ]
        elif isinstance(value, list):
            waiting += [(item, f"{path}[{index}]", base) for index, item in enumerate(value)]


def type_of(value: object) -> str:
    """The JSON type of a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
    return "array" if isinstance(value, list) else "object"


def value_key(value: Any) -> Hashable:
    """Something that is equal for values that are equal in JSON: 1 is 1.0 and not true."""
    if isinstance(value, list):
        return ("array", *map(value_key, value))
    if isinstance(value, dict):
        return ("object", frozenset((name, value_key(item)) for name, item in value.items()))
    return type_of(value), value


def distinct(values: Iterable[Any]) -> list[Any]:
    """The values without those that are equal to an earlier one."""
    return list({value_key(value): value for value in reversed(list(values))}.values())[::-1]
