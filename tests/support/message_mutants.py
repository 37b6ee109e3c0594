"""Random changes to messages, including those that only gRPC callers can make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

UNKNOWN = b"\xf8\x7c\x05"
"""The wire format of field 1999, which no message has."""
_INTS = (0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 5000)
_ODD: dict[int, tuple[Any, ...]] = {
    FieldDescriptor.CPPTYPE_BOOL: (True, False),
    FieldDescriptor.CPPTYPE_DOUBLE: (math.nan, math.inf, -math.inf, -0.0, 1e308, 5e-324, 2.5, -101.0),
    FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 3, 4, 5, 99, -1, 2**31 - 1),
    FieldDescriptor.CPPTYPE_STRING: ("", "\x00", "x", "{", '"\\ud800"', "[" * 3000, "é\u2028" * 300, "null"),
}


def changed_message(random: Random, message: GenerateRequest) -> GenerateRequest:
    """A copy with a few changes."""
    changed = GenerateRequest()
    changed.CopyFrom(message)
    for _ in range(random.choice([1, 1, 2, 3])):
        _change(random, random.choice(list(_messages(changed))))
    return changed


def is_repeatable(message: GenerateRequest) -> bool:
    """Whether the answer is the same each time: a seed decides both tokens and ids of calls."""
    return message.sampling.HasField("seed")


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else [value]:
            yield from _messages(inner)


def _change(random: Random, message: Message) -> None:
    if random.random() < 0.15:
        message.MergeFromString(UNKNOWN)
        return
    field: Any = random.choice(list(message.DESCRIPTOR.fields))
    if random.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(message, field.name)[random.choice([0, 7, 49_152, 2**32 - 1])] = random.choice(_ODD_BIASES)
    elif field.is_repeated:
        _lengthen(random, field, getattr(message, field.name))
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, _value(random, field))


_ODD_BIASES = _ODD[FieldDescriptor.CPPTYPE_DOUBLE]


def _lengthen(random: Random, field: Any, values: Any) -> None:
    count = random.choice([1, 4, 20, 140])
    if field.message_type is None:
        values.extend([_value(random, field)] * count)
    else:
        template = values[-1] if values else field.message_type._concrete_class()
        values.extend([template] * count)


def _value(random: Random, field: Any) -> Any:
    if field.cpp_type in _ODD:
        return random.choice(_ODD[field.cpp_type])
    low, high = _BOUNDS[field.cpp_type]
    return random.choice([value for value in _INTS if low <= value <= high])


_BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
