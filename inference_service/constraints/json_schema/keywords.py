"""The keywords of JSON Schema: which are enforced, and which values they may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from sys import float_info
from types import MappingProxyType
from typing import Any

from inference_service.constraints.errors import UnsupportedKeyword

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
JSON_TYPES = frozenset(TYPES) - {"integer"}
MAX_COUNT = 1_000_000_000
"""Greater lengths and counts are as good as none."""


class Role(Enum):
    """The treatment of a keyword by the compiler."""

    ENFORCED = "enforced"
    ANNOTATION = "annotation"
    """It demands nothing, and is not named in the report."""
    REFUSED = "refused"
    """It demands something that is not enforced."""
    STRUCTURE = "structure"
    """It says where schemas are, or which one is meant."""


@dataclass(frozen=True, slots=True)
class Keyword:
    """One keyword."""

    name: str
    role: Role
    note: str
    """The part that is enforced, and its limits; one or two sentences."""
    check: Callable[[Any], str]
    """Says what its value must be; nothing if it is that."""


def check_value(name: str, value: Any, path: str) -> None:
    """See that a keyword's value is one that it can have.

    Raises:
        UnsupportedKeyword: it is not, or the keyword cannot be enforced at all.

    """
    keyword = KEYWORDS[name]
    if keyword.role is Role.REFUSED and value not in (True, {}):
        raise UnsupportedKeyword(f"the keyword {name} is not supported", path, name)
    expected = keyword.check(value)
    if expected:
        raise UnsupportedKeyword(f"{name} must be {expected}", path, name)


def _object(value: Any) -> str:
    return "" if isinstance(value, dict) else "an object"


def _schema(value: Any) -> str:
    return "" if isinstance(value, dict | bool) else "a schema (an object or a boolean)"


def _schemas(value: Any) -> str:
    return "" if isinstance(value, list) and value else "an array of at least one schema"


def _schema_or_schemas(value: Any) -> str:
    return "" if isinstance(value, list | dict | bool) else "a schema, or an array of schemas"


def _schema_object(value: Any) -> str:
    return "" if isinstance(value, dict) else "an object of schemas"


def _values(value: Any) -> str:
    return "" if isinstance(value, list) and value else "an array of at least one value"


def _types(value: Any) -> str:
    names = value if isinstance(value, list) and value else [value]
    fits = all(isinstance(name, str) and name in TYPES for name in names)
    return "" if fits else f"one or several of {', '.join(TYPES)}"


def _names(value: Any) -> str:
    fits = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return "" if fits else "an array of strings"


def _name_lists(value: Any) -> str:
    fits = isinstance(value, dict) and all(not _names(item) for item in value.values())
    return "" if fits else "an object of arrays of strings"


def _dependencies(value: Any) -> str:
    fits = isinstance(value, dict) and all(not _names(item) or not _schema(item) for item in value.values())
    return "" if fits else "an object of schemas or arrays of strings"


def _count(value: Any) -> str:
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    fits = is_whole and not isinstance(value, bool) and value >= 0
    return "" if fits else "an integer of 0 or more"


def _number(value: Any) -> str:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= float_info.max
    return "" if fits else "a finite number"


def _bound(value: Any) -> str:
    return "" if isinstance(value, bool) or not _number(value) else "a finite number"


def _positive(value: Any) -> str:
    return "" if not _number(value) and value > 0 else "a number greater than 0"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "a string"


def _boolean(value: Any) -> str:
    return "" if isinstance(value, bool) else "a boolean"


def _anything(_value: object) -> str:
    return ""


def _enforced(name: str, check: Callable[[Any], str], note: str) -> Keyword:
    return Keyword(name, Role.ENFORCED, note, check)


def _structure(name: str, check: Callable[[Any], str], note: str) -> Keyword:
    return Keyword(name, Role.STRUCTURE, note, check)


_ALL = (
    _enforced("type", _types, "All seven types; a list of them is a union."),
    _enforced(
        "enum", _values, "Values of any type. Those that other keywords beside it exclude are left out."
    ),
    _enforced("const", _anything, "A value of any type."),
    _enforced("nullable", _boolean, "As OpenAPI 3.0 means it: `null` beside the stated `type`."),
    _enforced("allOf", _schemas, "All branches are put together, with what stands beside them."),
    _enforced("anyOf", _schemas, "Any branch, with what stands beside it."),
    _enforced(
        "oneOf",
        _schemas,
        "Branches that can hold together are made disjoint by exclusion; refused where that is not exact.",
    ),
    _enforced(
        "not",
        _schema,
        "Types, `const`, `enum` of scalars, `required`, bounds, lengths, counts, patterns, and what is made "
        "of these.",
    ),
    _enforced("if", _schema, "With `then` and `else`; the condition must be one that `not` can take."),
    _enforced("then", _schema, "See `if`."),
    _enforced("else", _schema, "See `if`."),
    _enforced("properties", _schema_object, "Members come in the order of the schema."),
    _enforced("required", _names, "Names without a schema of their own come behind the named members."),
    _enforced(
        "additionalProperties",
        _schema,
        "Further members come behind the named ones. Where nothing is said of them, any are allowed.",
    ),
    _enforced(
        "patternProperties",
        _schema_object,
        "Beside named and additional members; at most 6 patterns for one object.",
    ),
    _enforced("propertyNames", _schema, "As far as its schema describes strings."),
    _enforced("minProperties", _count, "Up to 64."),
    _enforced("maxProperties", _count, "Up to 64 beside named members."),
    _enforced(
        "dependentRequired", _name_lists, "Each dependency is a choice: without the member, or with both."
    ),
    _enforced("dependentSchemas", _schema_object, "Each dependency is a choice, as `dependentRequired`."),
    _enforced(
        "dependencies", _dependencies, "As `dependentRequired` or `dependentSchemas` (draft 7 and before)."
    ),
    _enforced("prefixItems", _schemas, "Elements by position."),
    _enforced(
        "items",
        _schema_or_schemas,
        "Of all elements behind the prefix; an array is a prefix (draft 4 to 2019-09).",
    ),
    _enforced("additionalItems", _schema, "Of the elements behind an array of `items` (draft 4 to 2019-09)."),
    _enforced("minItems", _count, "Any count."),
    _enforced("maxItems", _count, "Any count."),
    _enforced(
        "uniqueItems",
        _boolean,
        "For arrays of at most one element, and where elements can be at most 6 different values.",
    ),
    _enforced(
        "contains", _schema, "With `minContains` up to 16; `maxContains` needs a schema that `not` can take."
    ),
    _enforced("minContains", _count, "See `contains`."),
    _enforced("maxContains", _count, "See `contains`."),
    _enforced("minLength", _count, "In characters (code points), also beside a pattern."),
    _enforced("maxLength", _count, "In characters (code points), also beside a pattern."),
    _enforced(
        "pattern",
        _text,
        "Found anywhere unless anchored. Without backreferences, lookbehinds and Unicode classes; lookaheads "
        "hold outside of groups.",
    ),
    _enforced("format", _text, "See the table of formats. Unknown formats are annotations, and named."),
    _enforced("minimum", _number, "Exact; numbers with bounds have at most 15 digits and no exponent."),
    _enforced("maximum", _number, "See `minimum`."),
    _enforced("exclusiveMinimum", _bound, "See `minimum`. A boolean is read as draft 4 means it."),
    _enforced("exclusiveMaximum", _bound, "See `minimum`. A boolean is read as draft 4 means it."),
    _enforced(
        "multipleOf",
        _positive,
        "Integers and decimals with up to 500 remainders. With bounds on both sides, up to 1,000 values.",
    ),
    _structure("$ref", _text, "Inside the document: a JSON pointer, `$anchor` or `$id`. May be recursive."),
    _structure("$defs", _object, "Schemas to refer to."),
    _structure("definitions", _object, "Schemas to refer to."),
    _structure("$id", _text, "The base of references, anywhere."),
    _structure("id", _anything, "The base of references (draft 4)."),
    _structure("$anchor", _text, "A name to refer to."),
    _structure("$schema", _text, "The draft. Up to draft 7, nothing beside `$ref` counts."),
    *(
        Keyword(name, Role.ANNOTATION, "Demands nothing.", _anything)
        for name in (
            *("$comment", "title", "description", "default", "deprecated", "example", "examples"),
            *("readOnly", "writeOnly", "discriminator", "externalDocs", "xml", "x-guidance", "$vocabulary"),
        )
    ),
)
_REFUSED = (
    Keyword("unevaluatedProperties", Role.REFUSED, "Not supported.", _anything),
    Keyword("unevaluatedItems", Role.REFUSED, "Not supported.", _anything),
    Keyword("$dynamicRef", Role.REFUSED, "Not supported.", _anything),
    Keyword("$recursiveRef", Role.REFUSED, "Not supported.", _anything),
)
KEYWORDS: Mapping[str, Keyword] = MappingProxyType({keyword.name: keyword for keyword in (*_ALL, *_REFUSED)})
"""Every keyword that is known, by name. Any other is an annotation, which is named in the report."""
