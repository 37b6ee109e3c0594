"""The grammar that a request's answer has to follow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from inference_service.backends.errors import EngineGrammarError
from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.errors import ConstraintError
from inference_service.constraints.grammar import Grammar
from inference_service.errors import InvalidRequest
from inference_service.generation.tools.constraint import call_grammar
from inference_service.generation.tools.types import ToolMode
from inference_service.parse import ChatPrompt, Constraint, ParsedRequest
from inference_service.served import ServedModel

GrammarCheck = Callable[[Grammar], None]
"""Raises EngineGrammarError for a grammar that the engine cannot follow."""

_MESSAGE_LIMIT = 500
_MAX_UNENFORCED = 64
"""Keywords that are named in the report of one request."""
_TOOLS = "chat.tools"
_TOOL_FIELD = re.compile(r"chat\.tools\[\d+\]\.parameters")


def grammar_of(parsed: ParsedRequest, model: ServedModel, check: GrammarCheck) -> Grammar | None:
    """The grammar of a request; None where nothing is enforced. May take a while.

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
    """Paths of the schema keywords in a request that its grammar does not enforce; the first of them."""
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
        return compile_constraint(ConstraintKind(constraint.kind), constraint.source)
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
        # On its own first: what is wrong with it is said the same way as without tools.
        _compiled(constraint)
    try:
        return call_grammar(
            chat.tools,
            chat.tool_choice,
            model.template.tool_format,
            parallel=chat.parallel_tool_calls,
            answer=_answer(constraint),
        )
    except ConstraintError as error:
        raise _refusal(error, _field_of(error.path, constraint)) from None
    except RecursionError:
        raise InvalidRequest.of(_TOOLS, "are nested too deep.") from None


def _answer(constraint: Constraint | None) -> Mapping[str, Any] | bool | None:
    if constraint is None:
        return None
    schema: Mapping[str, Any] | bool = json.loads(constraint.source or '{"type": "object"}')
    return schema


def _field_of(path: str, constraint: Constraint | None) -> str:
    """The field that a path of the grammar begins with, without the caller's own names in it."""
    if constraint is not None and path.startswith("constraint"):
        return constraint.field
    found = _TOOL_FIELD.match(path)
    return found.group() if found else _TOOLS


def _refusal(error: EngineGrammarError | ConstraintError, field: str) -> InvalidRequest:
    place = f" (at `{error.path}`)" if isinstance(error, ConstraintError) and error.path else ""
    reason = error.message if isinstance(error, ConstraintError) else str(error)
    return InvalidRequest.of(field, f"cannot be enforced: {reason[:_MESSAGE_LIMIT]}{place}")
