"""Checks whether a value is valid under a schema, for the values of `enum` and `const` and for names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from inference_service.constraints.json_schema.document import Schema, distinct, type_of, value_key
from inference_service.constraints.json_schema.facts import Atom, exact
from inference_service.constraints.json_schema.strings import NUMBER_FORMATS, language_of_format
from inference_service.constraints.matching import belongs
from inference_service.constraints.regex import found_text


def holds_all(goal: Iterable[Atom], value: Any) -> bool:
    """Whether a value agrees with every schema of a goal."""
    return all(holds(schema, value) is is_wanted for schema, is_wanted in goal)


def is_found(pattern: str, text: str, *, widest: bool = False) -> bool:
    """Whether a pattern is found in a text.

    Raises:
        ConstraintError: the pattern is not supported.

    """
    return belongs(found_text(pattern, widest=widest), text)


def holds(schema: Schema, value: Any) -> bool:
    """Whether a value is valid under a schema."""
    if isinstance(schema.value, bool):
        return schema.value
    return _logic(schema, value) and _demands(schema, value)


def _demands(schema: Schema, value: Any) -> bool:
    keywords = schema.keywords
    if "type" in keywords and not _has_type(keywords, value):
        return False
    if "enum" in keywords and value_key(value) not in schema.listed:
        return False
    if "const" in keywords and value_key(value) != value_key(keywords["const"]):
        return False
    match value:
        case bool() | None:
            return True
        case int() | float():
            return _is_number(keywords, value)
        case str():
            return _is_string(schema, value)
        case list():
            return _is_array(schema, value)
    return _is_object(schema, value)


def _has_type(keywords: dict[str, Any], value: Any) -> bool:
    names = keywords["type"] if isinstance(keywords["type"], list) else [keywords["type"]]
    if value is None and keywords.get("nullable") is True:
        return True
    is_whole = type_of(value) == "number" and value == value // 1
    return type_of(value) in names or (is_whole and "integer" in names)


def _logic(schema: Schema, value: Any) -> bool:
    keywords = schema.keywords
    if "$ref" in keywords and not holds(schema.reference, value):
        return False
    counts = {
        keyword: sum(holds(schema.child(keyword, i), value) for i in range(len(keywords[keyword])))
        for keyword in ("allOf", "anyOf", "oneOf")
        if isinstance(schema.value, dict) and keyword in keywords and keyword in schema.value
    }
    if counts.get("allOf", 0) != len(keywords.get("allOf", ())):
        return False
    if counts.get("anyOf", 1) < 1 or counts.get("oneOf", 1) != 1:
        return False
    if "not" in keywords and holds(schema.child("not"), value):
        return False
    if "if" in keywords:
        branch = "then" if holds(schema.child("if"), value) else "else"
        return branch not in keywords or holds(schema.child(branch), value)
    return True


def _is_number(keywords: dict[str, Any], value: int | float) -> bool:
    number = exact(value)
    limits = NUMBER_FORMATS.get(keywords.get("format", ""))
    return (
        ("minimum" not in keywords or number >= exact(keywords["minimum"]))
        and ("maximum" not in keywords or number <= exact(keywords["maximum"]))
        and ("exclusiveMinimum" not in keywords or number > exact(keywords["exclusiveMinimum"]))
        and ("exclusiveMaximum" not in keywords or number < exact(keywords["exclusiveMaximum"]))
        and ("multipleOf" not in keywords or (number / exact(keywords["multipleOf"])).denominator == 1)
        and (limits is None or limits[0] <= number <= limits[1])
    )


def _is_string(schema: Schema, value: str) -> bool:
    keywords = schema.keywords
    if not keywords.get("minLength", 0) <= len(value) <= keywords.get("maxLength", len(value)):
        return False
    if "pattern" in keywords and not is_found(keywords["pattern"], value):
        return False
    language = language_of_format(keywords.get("format", ""))
    return language is None or belongs(language, value)


def _is_array(schema: Schema, value: list[Any]) -> bool:
    keywords = schema.keywords
    if not keywords.get("minItems", 0) <= len(value) <= keywords.get("maxItems", len(value)):
        return False
    if keywords.get("uniqueItems") and len(distinct(value)) < len(value):
        return False
    is_old = isinstance(schema.value, dict) and isinstance(schema.value.get("items"), list)
    prefix = len(keywords.get("prefixItems", ()))
    rest = "additionalItems" if is_old else "items"
    for index, item in enumerate(value):
        if index < prefix:
            if not holds(schema.child("items" if is_old else "prefixItems", index), item):
                return False
        elif rest in keywords and not holds(schema.child(rest), item):
            return False
    if "contains" in keywords:
        count = sum(holds(schema.child("contains"), item) for item in value)
        return bool(keywords.get("minContains", 1) <= count <= keywords.get("maxContains", count))
    return True


def _is_object(schema: Schema, value: dict[str, Any]) -> bool:
    keywords = schema.keywords
    if not keywords.get("minProperties", 0) <= len(value) <= keywords.get("maxProperties", len(value)):
        return False
    if any(name not in value for name in keywords.get("required", ())):
        return False
    if "propertyNames" in keywords and not all(holds(schema.child("propertyNames"), name) for name in value):
        return False
    return _has_members(schema, value) and _has_dependencies(schema, value)


def _has_members(schema: Schema, value: dict[str, Any]) -> bool:
    keywords = schema.keywords
    for name, member in value.items():
        patterns = [p for p in keywords.get("patternProperties", {}) if is_found(p, name)]
        places: list[tuple[str, ...]] = [("patternProperties", pattern) for pattern in patterns]
        if name in keywords.get("properties", {}):
            places.append(("properties", name))
        if not places and "additionalProperties" in keywords:
            places.append(("additionalProperties",))
        if not all(holds(schema.child(*place), member) for place in places):
            return False
    return True


def _has_dependencies(schema: Schema, value: dict[str, Any]) -> bool:
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        for name, demanded in schema.keywords.get(keyword, {}).items():
            if name not in value:
                continue
            if isinstance(demanded, list):
                if any(other not in value for other in demanded):
                    return False
            elif not holds(schema.child(keyword, name), value):
                return False
    return True
