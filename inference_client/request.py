"""Keyword arguments to request messages: only what was given is set, so 0 and unset differ.

Ranges are the service's to check: it has the one table, and answers with the parameter's name and range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lodestream.inference.v1 import generate_service_pb2, model_service_pb2

from inference_client.constraint import write_constraint
from inference_client.conversation import write_messages, write_tools
from inference_client.fields import extend_field, set_field, set_fields, update_field
from inference_client.options import CountOptions, GenerateOptions

if TYPE_CHECKING:
    from typing import Unpack

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
_STOPPING = ("max_tokens", "ignore_eos", "include_stop")
_ENDINGS = ("add_generation_prompt", "continue_final_message")
_OUTPUT = ("n", "logprobs", "top_logprobs", "echo")


def build_request(**options: Unpack[GenerateOptions]) -> generate_service_pb2.GenerateRequest:
    """The request message of one generation; `GenerateOptions` describes each keyword.

    Raises:
        TypeError: not exactly one input is given, or a value has the wrong type.
        ValueError: a role is unknown, a message has other keys than it may, or a value fits no field.

    """
    _check_names(options, GenerateOptions)
    if options.get("model") is None:
        raise TypeError("The option model is required.")
    request = generate_service_pb2.GenerateRequest()
    set_fields(request, options, ("model", "user", "parse_special"))
    _write_input(request, options)
    set_fields(request.sampling, options, _SAMPLING)
    update_field(request.sampling.logit_bias, options.get("logit_bias"), "logit_bias")
    set_fields(request.stopping, options, _STOPPING)
    stop = options.get("stop")
    # A lone text is a sequence of texts too, one for each of its characters.
    extend_field(request.stopping.stop, [stop] if isinstance(stop, str) else stop, "stop")
    extend_field(request.stopping.stop_token_ids, options.get("stop_token_ids"), "stop_token_ids")
    set_fields(request.output, options, _OUTPUT)
    if (constraint := options.get("constraint")) is not None:
        write_constraint(request.constraint, constraint)
    return request


def build_validation(request: generate_service_pb2.GenerateRequest) -> generate_service_pb2.GenerateRequest:
    """The same request, to be checked and explained only."""
    copy = generate_service_pb2.GenerateRequest()
    copy.CopyFrom(request)
    copy.validate_only = True
    return copy


def build_count_request(model: str, options: CountOptions) -> model_service_pb2.CountTokensRequest:
    """The request message of one count; raises what `build_request` raises."""
    _check_names(options, CountOptions)
    request = model_service_pb2.CountTokensRequest()
    set_field(request, "model", model)
    _check_input(options)
    set_fields(request, options, ("prompt", "parse_special"))
    if (token_ids := options.get("token_ids")) is not None:
        request.token_ids.SetInParent()
        extend_field(request.token_ids.ids, token_ids, "token_ids")
    _write_chat(request, options)
    return request


def choice_count(request: generate_service_pb2.GenerateRequest) -> int:
    """How many choices the answer to a request has."""
    if request.validate_only:
        return 0
    prompts = len(request.batch.prompts) if request.WhichOneof("input") == "batch" else 1
    return prompts * (request.output.n if request.output.HasField("n") else 1)


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
        set_field(request, "prompt", prompt)
        return
    request.batch.SetInParent()
    for number, text in enumerate(prompt):
        set_field(request.batch.prompts.add(), "text", text, f"prompt[{number}]")


def _write_token_ids(request: generate_service_pb2.GenerateRequest, token_ids: list[Any]) -> None:
    if not (token_ids and isinstance(token_ids[0], Iterable)):
        request.token_ids.SetInParent()
        extend_field(request.token_ids.ids, token_ids, "token_ids")
        return
    for number, ids in enumerate(token_ids):
        prompt = request.batch.prompts.add()
        prompt.token_ids.SetInParent()
        extend_field(prompt.token_ids.ids, ids, f"token_ids[{number}]")


def _write_chat(
    request: generate_service_pb2.GenerateRequest | model_service_pb2.CountTokensRequest,
    options: GenerateOptions | CountOptions,
) -> None:
    tools = options.get("tools"), options.get("tool_choice"), options.get("parallel_tool_calls")
    endings = options.get("add_generation_prompt"), options.get("continue_final_message")
    if (messages := options.get("messages")) is not None:
        request.chat.SetInParent()
        write_messages(request.chat, messages)
        write_tools(request.chat, *tools)
        set_fields(request.chat, options, _ENDINGS)
    elif (*tools, *endings) != (None,) * 5:
        *names, last = ("tools", "tool_choice", "parallel_tool_calls", *_ENDINGS)
        raise TypeError(f"{', '.join(names)} and {last} go with messages only.")
