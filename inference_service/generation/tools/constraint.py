"""Which calls an answer has to make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inference_service.constraints.grammar import Grammar
from inference_service.constraints.json_text import Whitespace
from inference_service.constraints.tools import CallableTool, CallList, calls_grammar
from inference_service.generation.tools.formats import ToolFormat
from inference_service.generation.tools.types import Tool, ToolChoice, ToolMode

MOST_CALLS = 8
"""Of one answer whose calls are enforced."""


def most_calls(choice: ToolChoice, *, parallel: bool = True) -> int | None:
    """How many calls an answer may make: the parser ends it there. None for any number."""
    if not parallel or choice.mode is ToolMode.NAMED:
        return 1
    return MOST_CALLS if choice.mode is ToolMode.REQUIRED else None


def call_grammar(
    tools: Sequence[Tool],
    choice: ToolChoice,
    form: ToolFormat,
    *,
    parallel: bool = True,
    answer: Mapping[str, Any] | bool | None = None,
    whitespace: Whitespace = Whitespace.COMPACT,
) -> Grammar | None:
    """The grammar that an answer has to follow; None where nothing is enforced.

    `required` takes one call or more of any tool, NAMED exactly one of the named tool. In `auto` the
    model's own words have to stay possible everywhere, so no grammar can tell calls apart from them, and
    nothing is enforced, not even for strict tools; unless the caller asks for JSON: then an answer is
    either calls or that JSON.

    Arguments follow the tool's schema. A keyword of it that cannot be enforced is an error for a strict
    tool; for others it is left out, and named in the grammar's `ignored`.

    Args:
        tools: of distinct names.
        choice: what the caller wants of them.
        form: how the model writes calls.
        parallel: whether it may make more than one; at most MOST_CALLS.
        answer: the JSON schema of an answer without calls; `{"type": "object"}` for any object.
        whitespace: what may stand between the parts of a JSON text.

    Raises:
        ConstraintError: a strict tool's schema or the answer's is invalid or cannot be enforced, or all of
            it is too large. Its path begins with `chat.tools[<index>].parameters` or `constraint`.

    """
    if choice.mode is ToolMode.NONE or (choice.mode is ToolMode.AUTO and answer is None):
        return None
    wanted = [
        CallableTool(form.head(tool.name), tool.parameters, tool.strict, f"chat.tools[{index}].parameters")
        for index, tool in enumerate(tools)
        if choice.mode is not ToolMode.NAMED or tool.name == choice.name
    ]
    calls = CallList(form.tail, form.separator, most_calls(choice, parallel=parallel) or MOST_CALLS)
    asked = answer if choice.mode is ToolMode.AUTO else None
    return calls_grammar(wanted, calls, answer=asked, whitespace=whitespace)
