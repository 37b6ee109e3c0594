"""Bodies to the protocol's request: only what the caller set."""

from __future__ import annotations

from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from rest_bridge.errors import invalid, unsupported
from rest_bridge.names import Names
from rest_bridge.openai.constraint import read_constraint, write_constraint
from rest_bridge.openai.fields import extend_ids, json_text, set_field
from rest_bridge.openai.requests import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationRequest,
)
from rest_bridge.openai.tools import NamedTool, Tool

_ROLES = {
    "system": pb.ROLE_SYSTEM,
    "developer": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}
_MODES = {
    "auto": pb.TOOL_CHOICE_MODE_AUTO,
    "none": pb.TOOL_CHOICE_MODE_NONE,
    "required": pb.TOOL_CHOICE_MODE_REQUIRED,
}


def fill_conversation(target: pb.ChatInput, body: ChatCompletionRequest) -> None:
    """Put what a body says into a request.

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
        added.parameters = json_text(function.parameters, f"{param}.function.parameters")
    if function.strict is not None:
        added.strict = function.strict


def _choose(target: pb.ToolChoice, choice: str | NamedTool) -> None:
    if isinstance(choice, NamedTool):
        target.mode = pb.TOOL_CHOICE_MODE_NAMED
        target.name = choice.function.name
    else:
        target.mode = _MODES[choice]


_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "seed",
)


def chat_request(body: ChatCompletionRequest) -> GenerateRequest:
    """The request of a chat completion.

    Raises:
        ApiError: 400, a number fits no field of the protocol, two parameters contradict each other, or one
            lacks what it needs.

    """
    message = _common(body)
    fill_conversation(message.chat, body)
    set_field(message.output, "logprobs", body.logprobs, type(body))
    set_field(message.output, "top_logprobs", body.top_logprobs, type(body))
    return message


def completion_request(body: CompletionRequest) -> GenerateRequest:
    """The request of a text completion.

    Raises:
        ApiError: as `chat_request`.

    """
    message = _common(body)
    _fill_prompt(message, body.prompt)
    if body.logprobs is not None:
        message.output.logprobs = True
        set_field(message.output, "top_logprobs", body.logprobs, type(body), "logprobs")
    set_field(message, "parse_special", body.parse_special, type(body))
    set_field(message.output, "echo", body.echo, type(body))
    if body.best_of not in (None, 1, body.n):
        raise unsupported("best_of", "best_of is not supported here but as 1, or as the same as n.")
    return message


def names_in(body: GenerationRequest) -> Names:
    """What the body calls the fields of its request."""
    own = {"output.top_logprobs": "logprobs"} if isinstance(body, CompletionRequest) else {}
    own["stopping.max_tokens"] = _limit_name(body)
    wish = read_constraint(body)
    if wish is not None:
        own[f"constraint.{wish.kind}"] = wish.param
    return Names(own)


def _fill_prompt(message: GenerateRequest, prompts: list[str | list[int]]) -> None:
    if len(prompts) > 1:
        for number, prompt in enumerate(prompts):
            _add_prompt(message, prompt, f"prompt[{number}]")
    elif isinstance(prompts[0], str):
        message.prompt = prompts[0]
    else:
        message.token_ids.SetInParent()
        extend_ids(message.token_ids.ids, prompts[0], "prompt")


def _add_prompt(message: GenerateRequest, prompt: str | list[int], param: str) -> None:
    if isinstance(prompt, str):
        message.batch.prompts.add(text=prompt)
    else:
        added = message.batch.prompts.add()
        added.token_ids.SetInParent()
        extend_ids(added.token_ids.ids, prompt, param)


def _common(body: GenerationRequest) -> GenerateRequest:
    schema = type(body)
    message = GenerateRequest(model=body.model)
    for name in _SAMPLING:
        if (value := getattr(body, name)) is not None:
            set_field(message.sampling, name, value, schema)
    if body.logit_bias:
        message.sampling.logit_bias.update(body.logit_bias)
    _fill_stopping(message, body)
    set_field(message.output, "n", body.n, schema)
    wish = read_constraint(body)
    if wish is not None:
        write_constraint(message.constraint, wish)
    set_field(message, "user", body.user, schema)
    set_field(message, "validate_only", body.validate_only, schema)
    return message


def _fill_stopping(message: GenerateRequest, body: GenerationRequest) -> None:
    schema = type(body)
    set_field(message.stopping, "max_tokens", _max_tokens(body), schema, _limit_name(body))
    set_field(message.stopping, "ignore_eos", body.ignore_eos, schema)
    set_field(message.stopping, "include_stop", body.include_stop_str_in_output, schema)
    if body.stop:
        message.stopping.stop.extend(body.stop)
    if body.stop_token_ids:
        extend_ids(message.stopping.stop_token_ids, body.stop_token_ids, "stop_token_ids")


def _limit_name(body: GenerationRequest) -> str:
    """What the body calls `max_tokens`."""
    uses_other = body.max_tokens is None and body.max_completion_tokens is not None
    return "max_completion_tokens" if uses_other else "max_tokens"


def _max_tokens(body: GenerationRequest) -> int | None:
    one, other = body.max_tokens, body.max_completion_tokens
    if one is not None and other is not None and one != other:
        raise invalid(
            "max_completion_tokens", "max_completion_tokens and max_tokens are one limit, but differ."
        )
    return other if one is None else one
