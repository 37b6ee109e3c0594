"""Makes the grammar that an answer has to follow, from a request's constraint or its enforced calls."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inference_service.backends.base import EngineGrammarError
from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.grammar import Grammar
from inference_service.constraints.json_text import Whitespace
from inference_service.constraints.tools import CallableTool, CallList, calls_grammar
from inference_service.errors import InvalidRequest
from inference_service.prompt.conversation import Tool, ToolChoice, ToolMode
from inference_service.prompt.tool_formats import ToolFormat
from inference_service.request.generate import ParsedRequest
from inference_service.request.options import Constraint
from inference_service.request.prompt import ChatPrompt
from inference_service.scheduling.served_model import ServedModel

GrammarCheck = Callable[[Grammar], None]
"""Raises EngineGrammarError for a grammar that the engine cannot follow; blocks for up to seconds."""

_MESSAGE_LIMIT = 500
_MAX_UNENFORCED = 64
"""Most keywords that the report of one request names."""
_TOOLS = "chat.tools"
_TOOL_FIELD = re.compile(r"chat\.tools\[\d+\]\.parameters")


def grammar_of(parsed: ParsedRequest, model: ServedModel, check: GrammarCheck) -> Grammar | None:
    """The grammar of a request; None where nothing is enforced. Compiling may take seconds.

    Raises:
        InvalidRequest: a constraint is invalid, too large, or cannot be enforced exactly.

    """
    constraint, chat = parsed.constraint, parsed.prompt
    if isinstance(chat, ChatPrompt) and chat.tool_choice.mode is not ToolMode.NONE:
        return _checked(_tool_grammar(constraint, chat, model), check, _TOOLS)
    if constraint is None:
        return None
    return _checked(_compiled(constraint), check, constraint.field)


def unenforced(grammar: Grammar | None, parsed: ParsedRequest) -> list[str]:
    """Paths of schema keywords that the grammar of a request does not enforce, at most _MAX_UNENFORCED."""
    if grammar is None:
        return []
    field = "" if parsed.constraint is None else parsed.constraint.field
    return [
        path if not path.startswith("$") else f"{field}{path[1:]}"
        for path in grammar.ignored[:_MAX_UNENFORCED]
    ]


def _checked(grammar: Grammar | None, check: GrammarCheck, field: str) -> Grammar | None:
    try:
        if grammar is not None:
            check(grammar)
    except EngineGrammarError as error:
        raise _refusal(error, field) from None
    return grammar


def _compiled(constraint: Constraint) -> Grammar:
    try:
        return compile_constraint(ConstraintKind(constraint.kind), constraint.source, constraint.whitespace)
    except ConstraintError as error:
        raise _refusal(error, constraint.field) from None


def _tool_grammar(constraint: Constraint | None, chat: ChatPrompt, model: ServedModel) -> Grammar | None:
    if model.template is None:
        return None
    if constraint is not None and constraint.kind in ("regex", "grammar"):
        raise InvalidRequest.of(
            constraint.field,
            "cannot be combined with `chat.tools`, unless `chat.tool_choice` is `TOOL_CHOICE_MODE_NONE`.",
            "unsupported_parameter",
        )
    if constraint is not None:
        # Compiled alone first, so that its errors are the same as without tools.
        _compiled(constraint)
    try:
        return call_grammar(
            chat.tools,
            chat.tool_choice,
            model.template.tool_format,
            parallel=chat.parallel_tool_calls,
            answer=_answer_schema(constraint),
            whitespace=Whitespace.COMPACT if constraint is None else constraint.whitespace,
        )
    except ConstraintError as error:
        raise _refusal(error, _field_of(error.path, constraint)) from None
    except RecursionError:
        raise InvalidRequest.of(_TOOLS, "are nested too deep.") from None


def _answer_schema(constraint: Constraint | None) -> Mapping[str, Any] | bool | None:
    if constraint is None:
        return None
    schema: Mapping[str, Any] | bool = json.loads(constraint.source or '{"type": "object"}')
    return schema


def _field_of(path: str, constraint: Constraint | None) -> str:
    """The field of the protocol that a path begins with; names that the caller chose are cut off."""
    if constraint is not None and path.startswith("constraint"):
        return constraint.field
    found = _TOOL_FIELD.match(path)
    return found.group() if found else _TOOLS


def _refusal(error: EngineGrammarError | ConstraintError, field: str) -> InvalidRequest:
    place = f" (at `{error.path}`)" if isinstance(error, ConstraintError) and error.path else ""
    reason = error.message if isinstance(error, ConstraintError) else str(error)
    return InvalidRequest.of(field, f"cannot be enforced: {reason[:_MESSAGE_LIMIT]}{place}")


MAX_CALLS = 8
"""Most calls in one answer whose calls are enforced."""


def most_calls(choice: ToolChoice, *, parallel: bool = True) -> int | None:
    """Most calls in an answer: the parser ends the answer after them. None: any number."""
    if not parallel or choice.mode is ToolMode.NAMED:
        return 1
    return MAX_CALLS if choice.mode is ToolMode.REQUIRED else None


def call_grammar(
    tools: Sequence[Tool],
    choice: ToolChoice,
    form: ToolFormat,
    *,
    parallel: bool = True,
    answer: Mapping[str, Any] | bool | None = None,
    whitespace: Whitespace = Whitespace.COMPACT,
) -> Grammar | None:
    """The grammar of an answer with tool calls; None where nothing is enforced.

    REQUIRED enforces one call or more of any tool, NAMED exactly one call of the named tool. AUTO enforces
    nothing, not even for strict tools: free text has to stay possible everywhere, and no grammar can tell
    a call from it. With a JSON constraint, AUTO enforces an answer that is either calls or that JSON.

    Arguments follow the schema of the tool. A keyword that cannot be enforced is an error for a strict tool.
    For another tool it is left out and named in the grammar's `ignored`.

    Args:
        tools: with distinct names.
        choice: which calls are enforced.
        form: how the model writes calls.
        parallel: whether several calls are allowed; at most MAX_CALLS.
        answer: the JSON schema of an answer without calls; `{"type": "object"}` for any object.
        whitespace: the whitespace that a JSON text may have between its tokens.

    Raises:
        ConstraintError: a strict tool's schema or the answer's is invalid or cannot be enforced, or all of
            it is too large. Its path begins with `chat.tools[<index>].parameters` or `constraint`.

    """
    if choice.mode is ToolMode.NONE or (choice.mode is ToolMode.AUTO and answer is None):
        return None
    callable_tools = [
        CallableTool(form.head(tool.name), tool.parameters, tool.strict, f"chat.tools[{index}].parameters")
        for index, tool in enumerate(tools)
        if choice.mode is not ToolMode.NAMED or tool.name == choice.name
    ]
    calls = CallList(form.tail, form.separator, most_calls(choice, parallel=parallel) or MAX_CALLS)
    alternative = answer if choice.mode is ToolMode.AUTO else None
    return calls_grammar(callable_tools, calls, answer=alternative, whitespace=whitespace)
