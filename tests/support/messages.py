"""Converts a REST body to the equivalent gRPC message, without code of the bridge."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import ParseDict
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from lodestream_common.parameters import PARAMETERS

_SAMPLING = [name for name, parameter in PARAMETERS.items() if parameter.field.startswith("sampling.")]
_STOPPING = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "stop_token_ids": "stop_token_ids",
    "ignore_eos": "ignore_eos",
    "include_stop_str_in_output": "include_stop",
}
_OUTPUT = ("n", "top_logprobs", "echo")
_GUIDED = {"guided_json": "json_schema", "guided_regex": "regex", "guided_grammar": "grammar"}

Message = dict[str, Any]


def grpc_request(body: Mapping[str, Any]) -> GenerateRequest:
    """Convert a body. Members that only REST has, such as `stream`, are left out."""
    message: Message = {
        "model": body.get("model", ""),
        "sampling": {name: body[name] for name in _SAMPLING if name in body},
        "stopping": {ours: body[name] for name, ours in _STOPPING.items() if name in body},
        "output": _output(body),
        **{name: body[name] for name in ("user", "validate_only", "parse_special") if name in body},
        **_input(body),
    }
    if "stop" in body:
        stop = body["stop"]
        message["stopping"]["stop"] = [stop] if isinstance(stop, str) else stop
    if constraint := _constraint(body):
        if "whitespace" in body:
            constraint["whitespace"] = f"WHITESPACE_{body['whitespace'].upper()}"
        message["constraint"] = constraint
    return ParseDict(message, GenerateRequest())


def _output(body: Mapping[str, Any]) -> Message:
    output = {name: body[name] for name in _OUTPUT if name in body}
    if "messages" in body and "logprobs" in body:
        output["logprobs"] = body["logprobs"]
    elif body.get("logprobs") is not None:
        output |= {"logprobs": True, "top_logprobs": body["logprobs"]}
    return output


def _constraint(body: Mapping[str, Any]) -> Message:
    response_format = body.get("response_format") or {"type": "text"}
    kind = response_format["type"]
    if kind == "json_object":
        return {"json_object": True}
    if kind == "json_schema":
        return {"json_schema": json.dumps(response_format["json_schema"]["schema"])}
    if kind != "text":
        return {"regex" if kind == "regex" else "grammar": response_format[kind]}
    return {ours: _text(body[name]) for name, ours in _GUIDED.items() if name in body}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _input(body: Mapping[str, Any]) -> Message:
    if "messages" in body:
        return {"chat": _chat(body)}
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return _prompts(prompt)
    if isinstance(prompt, list):
        return {"token_ids": {"ids": prompt}}
    return {} if prompt is None else {"prompt": prompt}


def _prompts(prompts: list[Any]) -> Message:
    """The prompts of a list; a list of one prompt equals the prompt alone."""
    if len(prompts) == 1:
        return _input({"prompt": prompts[0]})
    forms = [{"text": p} if isinstance(p, str) else {"token_ids": {"ids": p}} for p in prompts]
    return {"batch": {"prompts": forms}}


def _chat(body: Mapping[str, Any]) -> Message:
    chat: Message = {"messages": [_turn(turn) for turn in body["messages"]]}
    if "tools" in body:
        chat["tools"] = list(_tools(body["tools"]))
    if "tool_choice" in body:
        chat["tool_choice"] = _tool_choice(body["tool_choice"])
    same = ("parallel_tool_calls", "add_generation_prompt", "continue_final_message")
    return chat | {name: body[name] for name in same if name in body}


def _turn(turn: Mapping[str, Any]) -> Message:
    role = "system" if turn["role"] == "developer" else turn["role"]
    content = turn.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part["refusal" if part["type"] == "refusal" else "text"] for part in content)
    if role == "assistant":
        content = content or turn.get("refusal", "")
    calls = [{"id": call["id"], **call["function"]} for call in turn.get("tool_calls", ())]
    message = {"role": f"ROLE_{role.upper()}", "content": content, "tool_calls": calls}
    return {**message, "tool_call_id": turn.get("tool_call_id", "")}


def _tools(tools: Iterable[Mapping[str, Any]]) -> Iterable[Message]:
    for tool in tools:
        function = dict(tool["function"])
        if "parameters" in function:
            function["parameters"] = json.dumps(function["parameters"])
        yield function


def _tool_choice(choice: str | Mapping[str, Any]) -> Message:
    if isinstance(choice, str):
        return {"mode": f"TOOL_CHOICE_MODE_{choice.upper()}"}
    return {"mode": "TOOL_CHOICE_MODE_NAMED", "name": choice["function"]["name"]}
