"""How models write calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference_service.generation.tools.types import ToolCall


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """A call as JSON text, and what stands around it.

    A call is `{"name": "<name>", "<arguments key>": {...}}` between `opening` and `closing`, and the next
    one follows behind `separator`. The parser reads every format, so this is for writing and enforcing.
    """

    arguments_key: str
    opening: str = ""
    closing: str = ""
    separator: str = "\n"

    def head(self, name: str) -> str:
        """What stands before a call's arguments."""
        return f'{self.opening}{{"name": "{name}", "{self.arguments_key}": '

    @property
    def tail(self) -> str:
        """What stands behind them."""
        return f"}}{self.closing}"

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model would have written them."""
        return self.separator.join(f"{self.head(c.name)}{c.arguments}{self.tail}" for c in calls)


PLAIN = ToolFormat("arguments")
"""Ours, for templates without tools: one line a call."""

BARE = {key: ToolFormat(key, separator="; ") for key in ("arguments", "parameters")}
"""JSON with nothing around it, as Llama 3.1 was trained to write calls (with `parameters`)."""

TAGGED = {key: ToolFormat(key, "<tool_call>\n", "\n</tool_call>") for key in ("arguments", "parameters")}
"""Between tags, as Hermes and Qwen models write calls (with `arguments`)."""
