"""Converts request bodies to the protocol's `GenerateRequest`, with only what the caller set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_client.request import ROLES, TOOL_CHOICE_MODES, WHITESPACES
from lodestream_common.parameters import PARAMETERS
from rest_bridge.errors import ApiError, invalid, unsupported
from rest_bridge.openai.inputs import RequestModel
from rest_bridge.openai.requests import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationRequest,
    NamedTool,
    ResponseFormat,
    Tool,
)

_ROLES = {**ROLES, "developer": pb.ROLE_SYSTEM}
_SAMPLING = tuple(
    parameter.name
    for parameter in PARAMETERS.values()
    if parameter.field.startswith("sampling.") and parameter.name != "logit_bias"
)


def chat_request(body: ChatCompletionRequest) -> GenerateRequest:
    """Convert the body of a chat completion.

    Raises:
        ApiError: 400, a number is out of its field's range, two parameters contradict each other, or one is
            incomplete.

    """
    message = _common(body)
    _fill_conversation(message.chat, body)
    _set_field(message.output, "logprobs", body.logprobs, type(body))
    _set_field(message.output, "top_logprobs", body.top_logprobs, type(body))
    return message


def completion_request(body: CompletionRequest) -> GenerateRequest:
    """Convert the body of a text completion.

    Raises:
        ApiError: as `chat_request`.

    """
    message = _common(body)
    _fill_prompt(message, body.prompt)
    if body.logprobs is not None:
        message.output.logprobs = True
        _set_field(message.output, "top_logprobs", body.logprobs, type(body), "logprobs")
    _set_field(message, "parse_special", body.parse_special, type(body))
    _set_field(message.output, "echo", body.echo, type(body))
    if body.best_of not in (None, 1, body.n):
        raise unsupported("best_of", "best_of is only supported with the value 1 or the value of n.")
    return message


def own_names(body: GenerationRequest) -> dict[str, str]:
    """The protocol fields for which this body has another name than most, by path, with that name."""
    own = {"output.top_logprobs": "logprobs"} if isinstance(body, CompletionRequest) else {}
    own["stopping.max_tokens"] = _limit_name(body)
    constraint = _read_constraint(body)
    if constraint is not None:
        own[f"constraint.{constraint.kind}"] = constraint.param
    return own


def _fill_conversation(target: pb.ChatInput, body: ChatCompletionRequest) -> None:
    """Write the messages and tools of a body into a message.

    Raises:
        ApiError: 400, the parameters of a tool cannot be written as JSON.

    """
    target.SetInParent()
    for turn in body.messages:
        _add_turn(target, turn)
    for number, tool in enumerate(body.tools or ()):
        _add_tool(target, tool, f"tools[{number}]")
    if body.tool_choice is not None:
        _choose(target.tool_choice, body.tool_choice)
    for name in ("parallel_tool_calls", "add_generation_prompt", "continue_final_message"):
        if (value := getattr(body, name)) is not None:
            setattr(target, name, value)


def _add_turn(target: pb.ChatInput, turn: ChatMessage) -> None:
    message = target.messages.add(role=_ROLES[turn.role], content=turn.text)
    for call in turn.tool_calls or ():
        message.tool_calls.add(id=call.id, name=call.function.name, arguments=call.function.arguments)
    if turn.tool_call_id is not None:
        message.tool_call_id = turn.tool_call_id


def _add_tool(target: pb.ChatInput, tool: Tool, param: str) -> None:
    function = tool.function
    added = target.tools.add(name=function.name, description=function.description or "")
    if function.parameters is not None:
        added.parameters = _json_text(function.parameters, f"{param}.function.parameters")
    if function.strict is not None:
        added.strict = function.strict


def _choose(target: pb.ToolChoice, choice: str | NamedTool) -> None:
    if isinstance(choice, NamedTool):
        target.mode = pb.TOOL_CHOICE_MODE_NAMED
        target.name = choice.function.name
    else:
        target.mode = TOOL_CHOICE_MODES[choice]


def _fill_prompt(message: GenerateRequest, prompts: list[str | list[int]]) -> None:
    if len(prompts) > 1:
        for number, prompt in enumerate(prompts):
            _add_prompt(message, prompt, f"prompt[{number}]")
    elif isinstance(prompts[0], str):
        message.prompt = prompts[0]
    else:
        message.token_ids.SetInParent()
        _extend_ids(message.token_ids.ids, prompts[0], "prompt")


def _add_prompt(message: GenerateRequest, prompt: str | list[int], param: str) -> None:
    if isinstance(prompt, str):
        message.batch.prompts.add(text=prompt)
    else:
        added = message.batch.prompts.add()
        added.token_ids.SetInParent()
        _extend_ids(added.token_ids.ids, prompt, param)


def _common(body: GenerationRequest) -> GenerateRequest:
    schema = type(body)
    message = GenerateRequest(model=body.model)
    for name in _SAMPLING:
        if (value := getattr(body, name)) is not None:
            _set_field(message.sampling, name, value, schema)
    if body.logit_bias:
        message.sampling.logit_bias.update(body.logit_bias)
    _fill_stopping(message, body)
    _set_field(message.output, "n", body.n, schema)
    constraint = _read_constraint(body)
    if constraint is not None:
        _write_constraint(message.constraint, constraint)
        if body.whitespace is not None:
            message.constraint.whitespace = WHITESPACES[body.whitespace]
    _set_field(message, "user", body.user, schema)
    _set_field(message, "validate_only", body.validate_only, schema)
    return message


def _fill_stopping(message: GenerateRequest, body: GenerationRequest) -> None:
    schema = type(body)
    _set_field(message.stopping, "max_tokens", _max_tokens(body), schema, _limit_name(body))
    _set_field(message.stopping, "ignore_eos", body.ignore_eos, schema)
    _set_field(message.stopping, "include_stop", body.include_stop_str_in_output, schema)
    if body.stop:
        message.stopping.stop.extend(body.stop)
    if body.stop_token_ids:
        _extend_ids(message.stopping.stop_token_ids, body.stop_token_ids, "stop_token_ids")


def _limit_name(body: GenerationRequest) -> str:
    """The body's name for the limit of tokens."""
    uses_other = body.max_tokens is None and body.max_completion_tokens is not None
    return "max_completion_tokens" if uses_other else "max_tokens"


def _max_tokens(body: GenerationRequest) -> int | None:
    one, other = body.max_tokens, body.max_completion_tokens
    if one is not None and other is not None and one != other:
        raise invalid(
            "max_completion_tokens", "max_completion_tokens and max_tokens set the same limit, but differ."
        )
    return other if one is None else one


@dataclass(frozen=True, slots=True)
class _RequestedConstraint:
    """A constraint in a body."""

    kind: str
    """The protocol field for it."""
    param: str
    """The body's parameter for it."""
    value: dict[str, Any] | str | bool


def _read_constraint(body: GenerationRequest) -> _RequestedConstraint | None:
    """The constraint of a body; None: it has none.

    Raises:
        ApiError: 400, the body has two constraints, or an incomplete one.

    """
    first, second = [*_constraints(body), None, None][:2]
    if first is not None and second is not None:
        raise invalid(second.param, f"{second.param} and {first.param} are two constraints; one is possible.")
    return first


def _write_constraint(target: pb.Constraint, constraint: _RequestedConstraint) -> None:
    """Write a constraint into a message.

    Raises:
        ApiError: 400, a schema cannot be written as JSON.

    """
    value = constraint.value
    text = _json_text(value, constraint.param) if isinstance(value, dict) else value
    setattr(target, constraint.kind, text)


def _constraints(body: GenerationRequest) -> Iterator[_RequestedConstraint]:
    if body.response_format is not None and body.response_format.type != "text":
        yield _from_format(body.response_format)
    if body.guided_json is not None:
        yield _RequestedConstraint("json_schema", "guided_json", body.guided_json)
    if body.guided_regex is not None:
        yield _RequestedConstraint("regex", "guided_regex", body.guided_regex)
    if body.guided_grammar is not None:
        yield _RequestedConstraint("grammar", "guided_grammar", body.guided_grammar)


def _from_format(chosen: ResponseFormat) -> _RequestedConstraint:
    if chosen.type == "json_object":
        return _RequestedConstraint("json_object", "response_format", True)
    if chosen.type == "json_schema":
        if chosen.json_schema is None:
            raise _missing("response_format.json_schema")
        return _RequestedConstraint(
            "json_schema", "response_format.json_schema.schema", chosen.json_schema.schema_
        )
    value: str | None = getattr(chosen, chosen.type)
    param = f"response_format.{chosen.type}"
    if value is None:
        raise _missing(param)
    return _RequestedConstraint("regex" if chosen.type == "regex" else "grammar", param, value)


def _missing(param: str) -> ApiError:
    return invalid(param, f"{param} is required.", "missing_required_parameter")


_INT32 = 2**31 - 1
_UINT32 = 2**32 - 1
_MAX_DIGITS = 24
"""Longest number that an error message repeats."""


def _set_field(
    target: Any, name: str, value: float | str | None, schema: type[RequestModel], param: str | None = None
) -> None:
    """Set a field of a message, unless the value is None; `param` is the field's REST name.

    Raises:
        ApiError: 400, the number is out of the field's range.

    """
    if value is None:
        return
    try:
        setattr(target, name, value)
    except ValueError:
        raise _out_of_range(param or name, value, schema) from None


def _extend_ids(target: Any, ids: Sequence[int], param: str) -> None:
    """Add token ids to a repeated field.

    Raises:
        ApiError: 400, an id is out of the field's range.

    """
    try:
        target.extend(ids)
    except ValueError:
        bad = next(n for n, token in enumerate(ids) if not 0 <= token <= _UINT32)
        raise _outside(f"{param}[{bad}]", ids[bad], 0, _UINT32) from None


def _out_of_range(param: str, value: object, schema: type[RequestModel]) -> ApiError:
    documented = schema.model_json_schema()["properties"][param]
    # Where the operator sets the maximum, the bridge knows only the range of the protocol field.
    return _outside(param, value, documented["minimum"], documented.get("maximum", _INT32))


def _outside(param: str, value: object, low: int, high: int) -> ApiError:
    number = f"is {value}" if len(str(value)) <= _MAX_DIGITS else "is out of range"
    return invalid(param, f"{param} {number}; it must be in [{low}, {high}].")


def _json_text(value: dict[str, Any], param: str) -> str:
    """The JSON text of an object of a body, with members in the same order and integers of any size.

    Raises:
        ApiError: 400, a number in it is too large for a float.

    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise invalid(param, f"{param} has a number that is out of range.") from None
