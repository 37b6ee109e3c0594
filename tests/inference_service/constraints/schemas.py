"""Schemas of all kinds that compile, shared by tests of compiler, engines and transports."""

from __future__ import annotations

from typing import Any

_POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
    "required": ["x", "y"],
    "additionalProperties": False,
}
_TEXT = {"type": "string", "maxLength": 12}


def _object(*, required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    return _members(properties, required)


def _members(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def _one_string(**keywords: Any) -> dict[str, Any]:
    return _object(value={"type": "string", **keywords})


def _one_number(**keywords: Any) -> dict[str, Any]:
    return _object(value={"type": "number", **keywords})


def _one_integer(**keywords: Any) -> dict[str, Any]:
    return _object(value={"type": "integer", **keywords})


SCHEMAS: dict[str, Any] = {
    "flat object": _object(name=_TEXT, age={"type": "integer", "minimum": 0, "maximum": 150}),
    "nested objects": _object(a=_object(b=_object(c={"type": "boolean"}), d={"type": "null"})),
    "optional properties": _object(
        a={"type": "integer"}, b={"type": "boolean"}, c=_TEXT, d=_POINT, required=[]
    ),
    "optional around required": _object(
        a={"type": "boolean"},
        b={"type": "boolean"},
        c={"type": "boolean"},
        d={"type": "null"},
        required=["c"],
    ),
    "optional first and last": _object(
        a={"type": "null"}, b={"type": "null"}, c={"type": "null"}, required=["b"]
    ),
    "no properties": {"type": "object", "additionalProperties": False},
    "any object": {"type": "object", "maxProperties": 2},
    "map of integers": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 3},
    "named and others": {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "if": {"type": "boolean"}, "ida": {"type": "boolean"}},
        "required": ["id"],
        "additionalProperties": _TEXT,
        "maxProperties": 5,
    },
    "at least one member": {
        "type": "object",
        "additionalProperties": {"type": "boolean"},
        "minProperties": 1,
        "maxProperties": 2,
    },
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^[a-z]{2}$": {"type": "integer"}},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "property names": {
        "type": "object",
        "propertyNames": {"enum": ["en", "de"]},
        "additionalProperties": _TEXT,
        "maxProperties": 2,
    },
    "required without properties": {
        "type": "object",
        "required": ["a", "b"],
        "additionalProperties": {"type": "integer"},
        "maxProperties": 3,
    },
    "unicode keys": _members({"имя": _TEXT, "日本": {"type": "integer"}, "😀": {"type": "null"}}),
    "keys with quotes": _members(
        {'say "hi"': {"type": "integer"}, "back\\slash": {"type": "null"}, "new\nline": {"type": "null"}}
    ),
    "strange keys": _members({"": {"type": "null"}, " ": {"type": "null"}, "$ref": {"type": "boolean"}}),
    "enum of strings": {"type": "string", "enum": ["red", "green", "blue", 'with "quotes"', "zażółć"]},
    "enum of all kinds": {"enum": ["a", 1, 2.5, True, None, [1, "b"], {"k": "v"}, 1e30]},
    "enum cut by type": {"type": ["string", "null"], "enum": ["a", None, 5]},
    "const": _object(kind={"const": "point"}, version={"const": 1}, at={"const": [0, 0.5]}),
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "any integer": {"type": "integer"},
    "any number": {"type": "number"},
    "any string": {"type": "string", "maxLength": 30},
    "list of types": {"type": ["integer", "boolean", "null"]},
    "array of integers": {"type": "array", "items": {"type": "integer"}, "maxItems": 5},
    "array with bounds": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "array of objects": _object(points={"type": "array", "items": _POINT, "minItems": 1, "maxItems": 2}),
    "array of arrays": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        "maxItems": 2,
    },
    "empty array": {"type": "array", "maxItems": 0},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "boolean"}, {"type": "null"}],
        "items": False,
        "minItems": 1,
    },
    "tuple and rest": {
        "type": "array",
        "prefixItems": [{"type": "null"}, {"type": "boolean"}],
        "items": {"type": "integer"},
        "minItems": 3,
        "maxItems": 5,
    },
    "open tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}]},
    "anyOf scalars": {"anyOf": [{"type": "integer"}, {"type": "null"}, _TEXT]},
    "anyOf objects": {"anyOf": [_POINT, _object(name=_TEXT)]},
    "anyOf beside properties": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "additionalProperties": False,
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "optional as union": _object(
        name={"anyOf": [_TEXT, {"type": "null"}]}, age={"type": ["integer", "null"]}
    ),
    "oneOf by type": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}, _POINT]},
    "oneOf by tag": {
        "oneOf": [
            _object(kind={"const": "circle"}, radius={"type": "number", "minimum": 0}),
            _object(kind={"enum": ["square", "cube"]}, side={"type": "integer"}),
        ]
    },
    "oneOf with a defaulted tag": {
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}},
        "$defs": {
            "Cat": {
                "type": "object",
                "properties": {"lives": {"type": "integer"}, "kind": {"const": "cat", "default": "cat"}},
            },
            "Dog": {
                "type": "object",
                "properties": {"kind": {"const": "dog", "default": "dog"}, "tricks": {"type": "integer"}},
            },
        },
    },
    "allOf of one reference": {
        "type": "object",
        "properties": {"p": {"allOf": [{"$ref": "#/definitions/P"}], "description": "where"}},
        "required": ["p"],
        "definitions": {"P": _POINT},
    },
    "allOf merged": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "number", "minimum": 1}}, "required": ["a"]},
            {"properties": {"a": {"type": "integer", "maximum": 9}, "b": {"type": "boolean"}}},
        ],
        "required": ["b"],
    },
    "linked list": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "tree": {
        "type": "object",
        "properties": {
            "name": _TEXT,
            "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
        },
        "required": ["name", "children"],
        "additionalProperties": False,
    },
    "mutual recursion": {
        "$defs": {
            "a": _object(b={"$ref": "#/$defs/b"}, required=[]),
            "b": _object(a={"$ref": "#/$defs/a"}, stop={"type": "boolean"}, required=["stop"]),
        },
        "$ref": "#/$defs/a",
    },
    "reference by pointer": {
        "type": "object",
        "properties": {"a/b": {"type": "integer"}, "c": {"$ref": "#/properties/a~1b"}},
        "required": ["a/b", "c"],
    },
    "pattern of a code": _one_string(pattern="^[A-Z]{3}-[0-9]{4}$"),
    "pattern found anywhere": _one_string(pattern="ab"),
    "pattern with a length": _one_string(pattern="^[a-z][a-z0-9_]*$", minLength=3, maxLength=8),
    "pattern with quotes": _one_string(pattern='^"[^"]{1,5}"\\\\\\n$'),
    "pattern of alternatives": _one_string(pattern="^(?:yes|no|(?:very )?maybe)$|^\\d+%$"),
    "pattern of unicode": _one_string(pattern="^[а-яё]{2,5}😀?$"),
    "pattern from the start": _one_string(pattern="^ab", maxLength=9),
    "string of a length": _one_string(minLength=2, maxLength=5),
    "long string": _one_string(minLength=300, maxLength=1_000),
    "date": _one_string(format="date"),
    "date-time": _one_string(format="date-time"),
    "time": _one_string(format="time"),
    "duration": _one_string(format="duration"),
    "uuid": _one_string(format="uuid"),
    "email": _one_string(format="email"),
    "hostname": _one_string(format="hostname"),
    "ipv4": _one_string(format="ipv4"),
    "ipv6": _one_string(format="ipv6"),
    "uri": _one_string(format="uri"),
    "integer range": _one_integer(minimum=-12, maximum=345),
    "negative integers": _one_integer(maximum=-7),
    "exclusive integers": _one_integer(exclusiveMinimum=99, exclusiveMaximum=101),
    "integers from 1": _one_integer(minimum=1),
    "integers between floats": _one_integer(minimum=0.5, maximum=1e3),
    "int64": _one_integer(format="int64"),
    "multiples of 25": _one_integer(multipleOf=25, minimum=-50, maximum=100),
    "multiples of 100": _one_integer(multipleOf=100),
    "probability": _one_number(minimum=0, maximum=1),
    "positive number": _one_number(exclusiveMinimum=0),
    "latitude": _one_number(minimum=-90, maximum=90),
    "narrow decimals": _one_number(exclusiveMinimum=0.25, exclusiveMaximum=0.3),
    "decimals around zero": _one_number(minimum=-0.5, exclusiveMaximum=12.75),
    "negative numbers": _one_number(exclusiveMaximum=0),
    "below minus one": _one_number(maximum=-1.5),
    "anything": {"maxLength": 5, "maxItems": 1, "maxProperties": 1},
    "annotations": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/point",
        "title": "Point",
        "description": "A point",
        "examples": [{"x": 1, "y": 2}],
        **_POINT,
    },
}
