"""The nouns of tool calling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


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
    """What the caller wants of the tools."""

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
