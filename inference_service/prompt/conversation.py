"""The messages, tools and tool calls of a conversation, and the documents that chat templates read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, NoReturn

from inference_service.prompt.tokenizer import ControlTokenEscaper


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask the caller to call."""

    name: str
    """Of letters, digits, `_` and `-`."""
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    """JSON schema of an object; None: the function takes none."""
    strict: bool = False
    """Whether a schema that cannot be enforced is an error where a call is enforced."""


class ToolMode(Enum):
    """Whether the model may, must or must not call, in the words of the public API."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"

    @property
    def is_enforced(self) -> bool:
        """Whether the answer must be calls."""
        return self in (ToolMode.REQUIRED, ToolMode.NAMED)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether and which tools the model may call."""

    mode: ToolMode = ToolMode.AUTO
    name: str | None = None
    """The one tool to call, where the mode is NAMED."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made."""

    id: str
    name: str
    arguments: str
    """JSON text of an object; any text where the call was cut short, or is a caller's."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """New output within one call: first its id and name, with no arguments, then pieces of the arguments."""

    index: int
    """Of the call among the calls of its choice, from 0."""
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One message of a conversation."""

    role: str
    """One of the service's own role names (system, user, assistant, tool): templates build control tokens
    out of it."""
    content: str
    """Whatever the caller wrote; empty where the model only made calls."""
    tool_calls: Sequence[ToolCall] = ()
    """An assistant's: the calls that it made."""
    tool_call_id: str | None = None
    """A tool's: the call that this is the result of."""


class Ending(Enum):
    """The end of a conversation's prompt."""

    ANSWER = "answer"
    """With the header of the assistant's next turn, where the template has one."""
    NOTHING = "nothing"
    """With the last message."""
    CONTINUE = "continue"
    """Within the last message, behind its text."""


_DEEPEST = 64
"""Levels of brackets; templates and encoders recurse into a value."""

_STRING = re.compile(r'"((?:[^"\\]|\\.)*)', re.DOTALL)


class RawArguments(str):
    """Arguments that no JSON object represents without loss. `tojson` of a template writes them unchanged."""

    __slots__ = ()


def read_arguments(text: str) -> dict[str, Any] | RawArguments:
    """Parse the arguments of a call. Some clients send an empty text for an empty object.

    A text that is no JSON object becomes RawArguments: a call that was cut short is unfinished JSON. So does
    an object that would be written differently again: with a key twice, a number that no float represents,
    half a surrogate pair, or more than 64 levels.
    """
    if not text.strip():
        return {}
    if _depth(text) > _DEEPEST:
        return RawArguments(text)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, ArithmeticError):
        return RawArguments(text)
    return value if isinstance(value, dict) else RawArguments(text)


def written_arguments(arguments: dict[str, Any] | RawArguments) -> str:
    """The text of arguments, as templates write it."""
    if isinstance(arguments, RawArguments):
        return str(arguments)
    return json.dumps(arguments, ensure_ascii=False)


def strings_in(arguments: dict[str, Any] | RawArguments) -> Iterator[str]:
    """The keys and strings in arguments, decoded; of a text that is no object, itself as well."""
    if isinstance(arguments, RawArguments):
        yield str(arguments)
        yield from (_decoded(match[1]) for match in _STRING.finditer(arguments))
    else:
        yield from strings_in_value(arguments)


def strings_in_value(value: object) -> Iterator[str]:
    """The keys and strings in a JSON value."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            waiting += [*part.values(), *part.keys()]
        elif isinstance(part, list):
            waiting += part


def _decoded(text: str) -> str:
    try:
        decoded = json.loads(f'"{text}"', strict=False)
    except ValueError:
        return text
    return str(decoded)


def _depth(text: str) -> int:
    """At least the number of levels of the text: brackets in its strings count as well."""
    depth = deepest = 0
    for char in re.findall(r"[\[\]{}]", text):
        depth += 1 if char in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key comes twice")
    return value


def _float(text: str) -> float:
    value = float(text)
    # JSON cannot write an infinite number.
    if Decimal(repr(value)) != Decimal(text):
        raise ValueError("no float has this value")
    return value


def _no_number(_name: str) -> NoReturn:
    raise ValueError("it is no number of JSON")


_SCHEMA_WORDS = frozenset(
    re.findall(
        r"\S+",
        "$defs $ref additionalProperties allOf anyOf array boolean const default definitions description"
        " enum exclusiveMaximum exclusiveMinimum format integer items maxItems maxLength maximum minItems"
        " minLength minimum multipleOf not null nullable number object oneOf pattern prefixItems properties"
        " required string title type uniqueItems",
    )
)
"""Templates compare these words with their own. They do not come from callers, so they are never escaped."""


def tool_parameters(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, also where it takes none."""
    return dict(tool.parameters) if tool.parameters else {"type": "object", "properties": {}}


def written_texts(turns: Sequence[ChatTurn], tools: Sequence[Tool]) -> Iterator[str]:
    """Everything in a conversation that callers wrote."""
    for turn in turns:
        yield turn.content
        yield turn.tool_call_id or ""
        for call in turn.tool_calls:
            yield f"{call.id} {call.name} {written_arguments(read_arguments(call.arguments))}"
    for tool in tools:
        yield f"{tool.name} {tool.description} {_dumped(tool_parameters(tool))}"


def message_document(turn: ChatTurn, escaper: ControlTokenEscaper) -> dict[str, Any]:
    """One message. Templates test which members exist, so a member without a value is left out."""
    message: dict[str, Any] = {"role": turn.role, "content": escaper.text(turn.content)}
    if turn.tool_calls:
        message["tool_calls"] = [_call_document(call, escaper) for call in turn.tool_calls]
    if turn.tool_call_id is not None:
        message["tool_call_id"] = escaper.text(turn.tool_call_id)
    return message


def tool_document(tool: Tool, escaper: ControlTokenEscaper) -> dict[str, Any]:
    """One tool, as the public API has it."""
    function = {
        "name": escaper.text(tool.name),
        "description": escaper.text(tool.description),
        "parameters": escaper.value(tool_parameters(tool), _SCHEMA_WORDS),
    }
    return {"type": "function", "function": function}


def _call_document(call: ToolCall, escaper: ControlTokenEscaper) -> dict[str, Any]:
    found = read_arguments(call.arguments)
    arguments: object = escaper.value(found)
    if isinstance(found, RawArguments):
        arguments = RawArguments(arguments)
    function = {"name": escaper.text(call.name), "arguments": arguments}
    return {"id": escaper.text(call.id), "type": "function", "function": function}


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
