"""What a request holds and nobody here knows."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

MAX_NAMES = 32


def unknown_fields(message: Message) -> tuple[str, ...]:
    """Fields of a newer protocol or another one, by path and number: `sampling.field 99`."""
    return tuple(name for _, name in zip(range(MAX_NAMES), _unknown(message, ""), strict=False))


def _unknown(message: Message, path: str) -> Iterator[str]:
    found = UnknownFieldSet(message)
    for number in sorted({found[index].field_number for index in range(len(found))}):
        yield f"{path}field {number}"
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            for index, element in enumerate(value):
                yield from _unknown(element, f"{path}{field.name}[{index}].")
        else:
            yield from _unknown(value, f"{path}{field.name}.")
