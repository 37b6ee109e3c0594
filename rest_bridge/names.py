"""What the protocol calls a parameter → what REST calls it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_INDEX = re.compile(r"\[\d+]")
_QUOTED = re.compile(r"`([^`]*)`")
_GROUPS = re.compile(r"^(?:chat|sampling|stopping|output)\.")
"""Fields within these are called alike, without the group's own name."""

_FIELDS: Mapping[str, str] = {
    "input": "messages",
    "chat.messages[].tool_calls[].name": "messages[].tool_calls[].function.name",
    "chat.messages[].tool_calls[].arguments": "messages[].tool_calls[].function.arguments",
    "chat.tool_choice.mode": "tool_choice",
    "chat.tool_choice.name": "tool_choice.function.name",
    "chat.tools[].name": "tools[].function.name",
    "chat.tools[].description": "tools[].function.description",
    "chat.tools[].parameters": "tools[].function.parameters",
    "chat.tools[].strict": "tools[].function.strict",
    "token_ids": "prompt",
    "token_ids.ids": "prompt",
    "token_ids.ids[]": "prompt[]",
    "batch": "prompt",
    "batch.prompts": "prompt",
    "batch.prompts[]": "prompt[]",
    "batch.prompts[].text": "prompt[]",
    "batch.prompts[].token_ids": "prompt[]",
    "batch.prompts[].token_ids.ids": "prompt[]",
    "batch.prompts[].token_ids.ids[]": "prompt[][]",
    "stopping.include_stop": "include_stop_str_in_output",
    "constraint": "response_format",
    "constraint.kind": "response_format.type",
    "constraint.json_object": "response_format",
    "constraint.json_schema": "response_format.json_schema.schema",
    "constraint.regex": "guided_regex",
    "constraint.grammar": "guided_grammar",
    "ROLE_SYSTEM": "system",
    "ROLE_USER": "user",
    "ROLE_ASSISTANT": "assistant",
    "ROLE_TOOL": "tool",
    "TOOL_CHOICE_MODE_AUTO": "auto",
    "TOOL_CHOICE_MODE_NONE": "none",
    "TOOL_CHOICE_MODE_REQUIRED": "required",
    "TOOL_CHOICE_MODE_NAMED": "a named tool",
}
"""Path of a field, without its indexes, or value of an enum → REST's word. All others are called alike."""


@dataclass(frozen=True, slots=True)
class Names:
    """The words of one request.

    Args:
        own: what this request calls parameters otherwise than most, by their paths in the protocol.

    """

    own: Mapping[str, str] = field(default_factory=dict)

    def of(self, path: str) -> str:
        """REST's name of a field: `stopping.max_tokens` is `max_tokens`; indexes stay where they are."""
        known, rest = self._split(_INDEX.sub("[]", path))
        indexes = iter(_INDEX.findall(path))
        return re.sub(r"\[]", lambda _: next(indexes, "[]"), known + rest)

    def _split(self, plain: str) -> tuple[str, str]:
        """REST's name of the longest beginning of a path that has one, and what follows it in the path."""
        begin = plain
        while begin:
            if name := self.own.get(begin) or _FIELDS.get(begin):
                return name, plain[len(begin) :]
            shorter = re.sub(r"(?:(?:^|\.)[^.\[\]]*|\[])$", "", begin)
            if shorter == begin:
                # A name of the caller's in brackets: nothing before it is a field of the protocol.
                break
            begin = shorter
        return _GROUPS.sub("", plain, count=1), ""

    def in_text(self, text: str) -> str:
        """A text of the service, whose names stand between backticks, in REST's words."""
        return _QUOTED.sub(lambda found: self.of(found[1]), text)
