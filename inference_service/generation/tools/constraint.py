"""Making the model call a tool: grammars whose every text is calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from inference_service.generation.tools.formats import ToolFormat
from inference_service.generation.tools.types import Tool, ToolChoice, ToolMode
from inference_service.grammar import (
    ConstraintError,
    GrammarBuilder,
    Node,
    either,
    json_object,
    repeat,
    schema_rule,
    seq,
)

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
) -> str | None:
    """The grammar that an answer has to follow; None where nothing is enforced.

    `required` takes one call or more of any tool, NAMED exactly one of the named tool. In `auto` the
    model's own words have to stay possible everywhere, so no grammar can tell calls apart from them, and
    nothing is enforced, not even for strict tools; unless the caller asks for JSON: then an answer is
    either calls or that JSON.

    Arguments follow the tool's schema. Where that cannot be enforced exactly, it is an error for a strict
    tool, and for others they are any JSON object.

    Cached and thread-safe; bounded in time, but not short enough for an event loop.

    Args:
        tools: of distinct names.
        choice: what the caller wants of them.
        form: how the model writes calls.
        parallel: whether it may make more than one; at most MOST_CALLS.
        answer: the JSON schema of an answer without calls; `{"type": "object"}` for any object.

    Raises:
        ConstraintError: a strict tool's schema or the answer's is invalid or cannot be enforced, or all of
            it is too large. Its path begins with `chat.tools[<index>].parameters` or `constraint`.

    """
    if choice.mode is ToolMode.NONE or (choice.mode is ToolMode.AUTO and answer is None):
        return None
    wanted = [
        (index, tool.name, tool.parameters, tool.strict)
        for index, tool in enumerate(tools)
        if choice.mode is not ToolMode.NAMED or tool.name == choice.name
    ]
    most = most_calls(choice, parallel=parallel) or MOST_CALLS
    try:
        # Text, because what is cached has to be hashable.
        texts = json.dumps(wanted), json.dumps(answer if choice.mode is ToolMode.AUTO else None)
    except RecursionError:
        raise ConstraintError("they are nested too deeply", "chat.tools") from None
    return _compile(*texts, form, most)


@lru_cache(maxsize=256)
def _compile(wanted: str, answer: str, form: ToolFormat, most: int) -> str:
    builder = GrammarBuilder()
    calls = [
        seq(form.head(name), _arguments(builder, f"chat.tools[{index}].parameters", name, schema, strict))
        for index, name, schema, strict in json.loads(wanted)
    ]
    call = builder.rule("call", seq(either(*calls), form.tail))
    root = seq(call, repeat(seq(form.separator, call), 0, most - 1))
    schema = json.loads(answer)
    if schema is not None:
        root = either(root, schema_rule(builder, schema, name="answer", path="constraint"))
    return builder.build(root)


def _arguments(
    builder: GrammarBuilder, path: str, name: str, schema: Mapping[str, Any] | None, strict: bool
) -> Node:
    if schema is None:
        return seq("{}")
    if strict:
        return _schema_rule(builder, path, name, schema)
    try:
        # On its own first: whether anything satisfies it, and at what size, shows when it is built.
        trial = GrammarBuilder()
        trial.build(_schema_rule(trial, path, name, schema))
    except ConstraintError:
        return json_object(builder)
    return _schema_rule(builder, path, name, schema)


def _schema_rule(builder: GrammarBuilder, path: str, name: str, schema: Mapping[str, Any]) -> Node:
    if schema.get("type", "object") != "object":
        raise ConstraintError("the arguments of a function are an object", f"{path}.type")
    return schema_rule(builder, {**schema, "type": "object"}, name=name, path=path)
