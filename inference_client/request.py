"""Keyword arguments to request messages: only what the caller gave is set, so that 0 differs from unset.

The service checks the ranges, and its errors name the parameter and the range. Here a value is refused only
if it does not fit the field's type.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lodestream.inference.v1 import generate_service_pb2, generation_pb2, model_service_pb2

from inference_client.options import (
    Constraint,
    CountOptions,
    GenerateOptions,
    Grammar,
    JsonObject,
    JsonSchema,
    JsonSchemaSource,
    Message,
    Messages,
    Regex,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)

if TYPE_CHECKING:
    from typing import Unpack

    from google.protobuf.message import Message as ProtoMessage

_SAMPLING = tuple(
    field.name for field in generation_pb2.SamplingOptions.DESCRIPTOR.fields if field.name != "logit_bias"
)
_STOPPING = ("max_tokens", "ignore_eos", "include_stop")
_ENDINGS = ("add_generation_prompt", "continue_final_message")
_OUTPUT = ("n", "logprobs", "top_logprobs", "echo")
ROLES = {
    "system": generation_pb2.ROLE_SYSTEM,
    "user": generation_pb2.ROLE_USER,
    "assistant": generation_pb2.ROLE_ASSISTANT,
    "tool": generation_pb2.ROLE_TOOL,
}
_CALL_KEYS = ("id", "name", "arguments")
TOOL_CHOICE_MODES = {
    "auto": generation_pb2.TOOL_CHOICE_MODE_AUTO,
    "none": generation_pb2.TOOL_CHOICE_MODE_NONE,
    "required": generation_pb2.TOOL_CHOICE_MODE_REQUIRED,
}
WHITESPACES = {
    "compact": generation_pb2.WHITESPACE_COMPACT,
    "flexible": generation_pb2.WHITESPACE_FLEXIBLE,
}


def build_request(**options: Unpack[GenerateOptions]) -> generate_service_pb2.GenerateRequest:
    """Make the request message of one generation; `GenerateOptions` describes each keyword.

    Raises:
        TypeError: the number of inputs is not 1, or a value has the wrong type.
        ValueError: a role is unknown, a mapping has a wrong key, or a value does not fit its field.

    """
    _check_names(options, GenerateOptions)
    if options.get("model") is None:
        raise TypeError("The option model is required.")
    request = generate_service_pb2.GenerateRequest()
    _set_fields(request, options, ("model", "user", "parse_special"))
    _write_input(request, options)
    _set_fields(request.sampling, options, _SAMPLING)
    _update_field(request.sampling.logit_bias, options.get("logit_bias"), "logit_bias")
    _set_fields(request.stopping, options, _STOPPING)
    stop = options.get("stop")
    # A str is a sequence of its characters, and would become one stop sequence for each of them.
    _extend_field(request.stopping.stop, [stop] if isinstance(stop, str) else stop, "stop")
    _extend_field(request.stopping.stop_token_ids, options.get("stop_token_ids"), "stop_token_ids")
    _set_fields(request.output, options, _OUTPUT)
    if (constraint := options.get("constraint")) is not None:
        _write_constraint(request.constraint, constraint)
    return request


def build_validation(request: generate_service_pb2.GenerateRequest) -> generate_service_pb2.GenerateRequest:
    """Copy a request, and let the service only check and explain it."""
    copy = generate_service_pb2.GenerateRequest()
    copy.CopyFrom(request)
    copy.validate_only = True
    return copy


def build_count_request(model: str, options: CountOptions) -> model_service_pb2.CountTokensRequest:
    """Make the request message of `count_tokens`; raises what `build_request` raises."""
    _check_names(options, CountOptions)
    request = model_service_pb2.CountTokensRequest()
    _set_field(request, "model", model)
    _check_input(options)
    _set_fields(request, options, ("prompt", "parse_special"))
    if (token_ids := options.get("token_ids")) is not None:
        request.token_ids.SetInParent()
        _extend_field(request.token_ids.ids, token_ids, "token_ids")
    _write_chat(request, options)
    return request


def _write_input(request: generate_service_pb2.GenerateRequest, options: GenerateOptions) -> None:
    _check_input(options)
    if (prompt := options.get("prompt")) is not None:
        _write_prompt(request, prompt)
    if (token_ids := options.get("token_ids")) is not None:
        _write_token_ids(request, list(token_ids))
    _write_chat(request, options)


def _check_names(options: Mapping[str, Any], known: type) -> None:
    if unknown := options.keys() - known.__annotations__.keys():
        raise TypeError(f"There is no option named {' or '.join(sorted(unknown))}.")


def _check_input(options: Mapping[str, Any]) -> None:
    given = [name for name in ("messages", "prompt", "token_ids") if options.get(name) is not None]
    if len(given) != 1:
        raise TypeError(
            f"Give exactly one of messages, prompt and token_ids; got {' and '.join(given) or 'none'}."
        )


def _write_prompt(request: generate_service_pb2.GenerateRequest, prompt: str | Sequence[str]) -> None:
    if isinstance(prompt, str):
        _set_field(request, "prompt", prompt)
        return
    request.batch.SetInParent()
    for number, text in enumerate(prompt):
        _set_field(request.batch.prompts.add(), "text", text, f"prompt[{number}]")


def _write_token_ids(request: generate_service_pb2.GenerateRequest, token_ids: list[Any]) -> None:
    if not (token_ids and isinstance(token_ids[0], Iterable)):
        request.token_ids.SetInParent()
        _extend_field(request.token_ids.ids, token_ids, "token_ids")
        return
    for number, ids in enumerate(token_ids):
        prompt = request.batch.prompts.add()
        prompt.token_ids.SetInParent()
        _extend_field(prompt.token_ids.ids, ids, f"token_ids[{number}]")


def _write_chat(
    request: generate_service_pb2.GenerateRequest | model_service_pb2.CountTokensRequest,
    options: GenerateOptions | CountOptions,
) -> None:
    tools = options.get("tools"), options.get("tool_choice"), options.get("parallel_tool_calls")
    endings = options.get("add_generation_prompt"), options.get("continue_final_message")
    if (messages := options.get("messages")) is not None:
        request.chat.SetInParent()
        _write_messages(request.chat, messages)
        _write_tools(request.chat, *tools)
        _set_fields(request.chat, options, _ENDINGS)
    elif (*tools, *endings) != (None,) * 5:
        *names, last = ("tools", "tool_choice", "parallel_tool_calls", *_ENDINGS)
        raise TypeError(f"{', '.join(names)} and {last} go with messages only.")


def _write_messages(chat: generation_pb2.ChatInput, messages: Messages) -> None:
    for number, message in enumerate(messages):
        name = f"messages[{number}]"
        _write_message(chat.messages.add(), _as_message(message, name), name)


def _as_message(message: Message | Mapping[str, Any], name: str) -> Message:
    if isinstance(message, Message):
        return message
    needed = {"role"} if message.get("tool_calls") else {"role", "content"}
    if not needed <= set(message) <= set(Message.__dataclass_fields__):
        raise ValueError(
            f"{name} must have the keys role and content, and may have tool_calls and tool_call_id."
        )
    return Message(**message)


def _write_message(turn: generation_pb2.ChatMessage, message: Message, name: str) -> None:
    if message.role not in ROLES:
        raise ValueError(f"{name}.role must be one of {', '.join(ROLES)}.")
    turn.role = ROLES[message.role]
    _set_field(turn, "content", message.content, f"{name}.content")
    for number, call in enumerate(message.tool_calls or ()):
        _write_call(turn.tool_calls.add(), call, f"{name}.tool_calls[{number}]")
    _set_field(turn, "tool_call_id", message.tool_call_id, f"{name}.tool_call_id")


def _write_call(message: generation_pb2.ToolCall, call: ToolCall | Mapping[str, str], name: str) -> None:
    if isinstance(call, ToolCall):
        values: Mapping[str, str] = {key: getattr(call, key) for key in _CALL_KEYS}
    elif set(call) == set(_CALL_KEYS):
        values = call
    else:
        raise ValueError(f"{name} must have the keys {', '.join(_CALL_KEYS)}, and no other.")
    for key, value in values.items():
        _set_field(message, key, value, f"{name}.{key}")


def _write_tools(
    chat: generation_pb2.ChatInput,
    tools: Sequence[Tool] | None,
    tool_choice: ToolChoiceMode | ToolChoice | None,
    parallel_tool_calls: bool | None,
) -> None:
    for number, tool in enumerate(tools or ()):
        _write_tool(chat.tools.add(), tool, f"tools[{number}]")
    if isinstance(tool_choice, ToolChoice):
        chat.tool_choice.mode = generation_pb2.TOOL_CHOICE_MODE_NAMED
        _set_field(chat.tool_choice, "name", tool_choice.name, "tool_choice.name")
    elif tool_choice is not None:
        if tool_choice not in TOOL_CHOICE_MODES:
            raise ValueError(f"tool_choice must be a ToolChoice, or one of {', '.join(TOOL_CHOICE_MODES)}.")
        chat.tool_choice.mode = TOOL_CHOICE_MODES[tool_choice]
    _set_field(chat, "parallel_tool_calls", parallel_tool_calls)


def _write_tool(message: generation_pb2.Tool, tool: Tool, name: str) -> None:
    if not isinstance(tool, Tool):
        raise TypeError(f"{name} must be a Tool.")
    _set_field(message, "name", tool.name, f"{name}.name")
    _set_field(message, "description", tool.description, f"{name}.description")
    if tool.parameters is not None:
        parameters = f"{name}.parameters"
        _set_field(message, "parameters", _schema_text(tool.parameters, parameters), parameters)
    _set_field(message, "strict", tool.strict, f"{name}.strict")


def _write_constraint(message: generation_pb2.Constraint, constraint: Constraint) -> None:
    if isinstance(constraint, JsonObject):
        message.json_object = True
        _write_whitespace(message, constraint.whitespace)
    elif isinstance(constraint, JsonSchema):
        _set_field(message, "json_schema", _schema_text(constraint.schema, "constraint.schema"))
        _write_whitespace(message, constraint.whitespace)
    elif isinstance(constraint, Regex):
        _set_field(message, "regex", constraint.pattern, "constraint.pattern")
    elif isinstance(constraint, Grammar):
        _set_field(message, "grammar", constraint.source, "constraint.source")
    else:
        raise TypeError("constraint must be JsonObject, JsonSchema, Regex or Grammar.")


def _write_whitespace(message: generation_pb2.Constraint, whitespace: str | None) -> None:
    if whitespace is None:
        return
    if whitespace not in WHITESPACES:
        raise ValueError(f"constraint.whitespace must be one of {', '.join(WHITESPACES)}.")
    message.whitespace = WHITESPACES[whitespace]


def _schema_text(schema: JsonSchemaSource, name: str) -> str:
    if isinstance(schema, str):
        return schema  # the service checks it
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} is not JSON: {error}") from None


def _set_field(message: ProtoMessage, field: str, value: Any, name: str | None = None) -> None:
    """Set a field, unless the value is None. Errors name it `name`, which is the field's own name by default.

    Raises:
        TypeError: the value has the wrong type.
        ValueError: it does not fit.

    """
    if value is None:
        return
    try:
        setattr(message, field, value)
    except (TypeError, ValueError) as error:
        raise _named(name or field, error) from None


def _set_fields(message: ProtoMessage, values: Mapping[str, Any], fields: Iterable[str]) -> None:
    for field in fields:
        _set_field(message, field, values.get(field))


def _extend_field(field: Any, values: Iterable[Any] | None, name: str) -> None:
    if values is None:
        return
    try:
        field.extend(values)
    except (TypeError, ValueError) as error:
        raise _named(name, error) from None


def _update_field(field: Any, values: Mapping[Any, Any] | None, name: str) -> None:
    try:
        field.update(values or {})
    except (TypeError, ValueError) as error:
        raise _named(name, error) from None


def _named(name: str, error: TypeError | ValueError) -> TypeError | ValueError:
    if isinstance(error, UnicodeEncodeError):
        return ValueError(f"{name} does not fit: half a surrogate pair is not text.")
    return type(error)(f"{name} does not fit: {error}")
