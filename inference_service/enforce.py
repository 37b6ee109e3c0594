"""The grammar that a request's answer has to follow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from inference_service.errors import InvalidRequest
from inference_service.generation.tools.constraint import call_grammar
from inference_service.generation.tools.types import ToolMode
from inference_service.grammar import ConstraintError, ConstraintKind, compile_constraint
from inference_service.parse import ChatPrompt, Constraint, ParsedRequest
from inference_service.served import ServedModel

_MESSAGE_LIMIT = 500


def grammar_of(parsed: ParsedRequest, model: ServedModel) -> str | None:
    """The grammar of a request; None where nothing is enforced. May take a while.

    Raises:
        InvalidRequest: a constraint is invalid, too large, or cannot be enforced exactly.

    """
    constraint, chat = parsed.constraint, parsed.prompt
    if isinstance(chat, ChatPrompt) and chat.tool_choice.mode is not ToolMode.NONE:
        return _tool_grammar(constraint, chat, model)
    return None if constraint is None else _compiled(constraint)


def _compiled(constraint: Constraint) -> str:
    try:
        return compile_constraint(ConstraintKind(constraint.kind), constraint.source)
    except ConstraintError as error:
        raise _refusal(error, constraint.field) from None


def _tool_grammar(constraint: Constraint | None, chat: ChatPrompt, model: ServedModel) -> str | None:
    if model.template is None:
        return None
    if constraint is not None and constraint.kind in ("regex", "grammar"):
        raise InvalidRequest.of(
            constraint.field,
            f"{constraint.field} cannot be combined with tools, unless tool_choice is none.",
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
        raise _refusal(error, error.path.partition(".parameters.")[0] or "tools") from None


def _answer(constraint: Constraint | None) -> Mapping[str, Any] | bool | None:
    if constraint is None:
        return None
    schema: Mapping[str, Any] | bool = json.loads(constraint.source or '{"type": "object"}')
    return schema


def _refusal(error: ConstraintError, field: str) -> InvalidRequest:
    return InvalidRequest.of(field, f"{field}: {error}"[:_MESSAGE_LIMIT])
