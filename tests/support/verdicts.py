"""The expected replies to bodies that may violate the API's description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.json_format import ParseError
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from rest_bridge.openai import policy
from tests.support.asking import Reply
from tests.support.body_schema import CHAT, COMPLETION, components, is_valid, plain, undeclared
from tests.support.messages import grpc_request

_OF_SCHEMAS = re.compile(
    r"(guided_json|response_format\.json_schema\.schema)[.\[]|tools\[\d+]\.function\.parameters([.\[]|$)"
)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")
_TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 413: "invalid_request_error"}
CODES = frozenset(
    {
        "context_length_exceeded",
        "invalid_value",
        "missing_required_parameter",
        "model_not_found",
        "request_too_large",
        "unsupported_parameter",
    }
)
"""The error codes of an invalid request."""
_REFUSED = {CHAT: policy.REFUSED_IN_CHAT, COMPLETION: policy.REFUSED_IN_COMPLETIONS}
_CONSTRAINTS = ("guided_json", "guided_regex", "guided_grammar")
_DESCRIPTION = "response_format.json_schema.description"
_ONLY_REST = re.compile(rf"{re.escape(_DESCRIPTION)}|messages\[\d+\]\.refusal")
UNREADABLE = object()


def read_json(text: str) -> Any:
    """Parse JSON. Return UNREADABLE if the text is no JSON or is beyond Python's parser."""
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_members)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return UNREADABLE
    return value


def _refuse(token: str) -> Any:
    raise ValueError(token)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The last of several equal names counts; the values of the others must be valid, too."""
    for pair in pairs:
        json.dumps(pair, ensure_ascii=False, allow_nan=False).encode()
    return dict(pairs)


def check_reply(reply: Reply, value: Any, name: str) -> None:
    """Check that a body is refused with a reason, or answered with the names of its ignored parameters."""
    assert reply.headers["x-request-id"]
    if reply.status != 200:
        _check_refusal(reply, value, name)
        return
    if value is UNREADABLE:
        return
    assert is_valid(value, name), "answered, though it is not as described"
    named = [part for part in reply.headers.get(policy.HEADER, "").split(",") if not _is_of_a_schema(part)]
    expected = list(_without_effect(value, name, is_streamed=reply.is_stream))
    if named[-1:] == ["..."]:
        assert set(named[:-1]) <= set(expected)
    else:
        assert sorted(named) == sorted(expected), (named, expected)


def _is_of_a_schema(part: str) -> bool:
    """Whether a name is empty or belongs to a keyword in a schema, which other tests cover."""
    return not part or _OF_SCHEMAS.match(part) is not None


def _check_refusal(reply: Reply, value: Any, name: str) -> None:
    error = json.loads(reply.text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == _TYPES.get(reply.status), reply.status
    assert error["code"] in CODES, error
    assert 0 < len(error["message"].encode()) <= 1000
    if reply.status != 400 or not isinstance(value, dict):
        return
    assert error["param"], error
    root = re.split(r"[.\[]", error["param"])[0]
    if error["code"] != "missing_required_parameter":
        assert root in value, error
    assert root in components()[name]["properties"] or root in _REFUSED[name], error


def _without_effect(value: Mapping[str, Any], name: str, *, is_streamed: bool) -> Iterator[str]:
    for path, member, given in undeclared(value, components()[name]):
        is_harmless = not path and member in _REFUSED[name]
        if given is not None and not is_harmless:
            yield _header_form(f"{path}.{_header_form(member)}" if path else member)
    if value.get("stream_options") is not None and not is_streamed:
        yield "stream_options"
    if value.get("stream") and not is_streamed:
        yield "stream"
    response_format = value.get("response_format") or {}
    for member in ("json_schema", "regex", "grammar", "ebnf"):
        if response_format.get(member) is not None and response_format["type"] != member:
            yield f"response_format.{member}"
    if response_format.get("type") == "json_schema" and response_format["json_schema"].get("description"):
        yield _DESCRIPTION
    yield from _stopping(value)
    yield from _without_use(value, response_format)
    if name == CHAT:
        yield from _unread_refusals(value)
        yield from _without_tools(value, response_format)


def _header_form(name: str) -> str:
    """A name as in the header: without unsafe characters; paths of keywords in schemas may be longer."""
    limit = 200 if name.startswith(("tools[", "response_format.", "guided_json")) else 64
    return _UNSAFE.sub("_", name[:limit]) or "_"


def is_only_rest(name: str) -> bool:
    """Whether a parameter without effect is missing from the gRPC protocol, too."""
    return _ONLY_REST.fullmatch(name) is not None


def _has_text(value: Mapping[str, Any]) -> bool:
    prompt = value.get("prompt")
    return isinstance(prompt, str) or (isinstance(prompt, list) and isinstance(prompt[0], str))


def _without_use(value: Mapping[str, Any], response_format: Mapping[str, Any]) -> Iterator[str]:
    """Parameters that apply only to a text prompt, or to an answer that must be JSON."""
    is_demanded = value.get("tools") and value.get("tool_choice") not in (None, "auto", "none")
    if value.get("whitespace") is not None and (is_demanded or not _asks_for_json(value, response_format)):
        yield "whitespace"
    if value.get("parse_special") and not _has_text(value):
        yield "parse_special"


def _asks_for_json(value: Mapping[str, Any], response_format: Mapping[str, Any]) -> bool:
    return (
        response_format.get("type") in ("json_object", "json_schema") or value.get("guided_json") is not None
    )


def _stopping(value: Mapping[str, Any]) -> Iterator[str]:
    demanded = value.get("tools") and value.get("tool_choice") not in (None, "auto", "none")
    if demanded:
        yield from (one for one in ("stop", "stop_token_ids") if value.get(one))
    if value.get("include_stop_str_in_output") and (demanded or not value.get("stop")):
        yield "include_stop_str_in_output"


def _unread_refusals(value: Mapping[str, Any]) -> Iterator[str]:
    for number, turn in enumerate(value["messages"]):
        refusal, content = turn.get("refusal"), turn.get("content")
        is_read = turn["role"] == "assistant" and not (
            content if isinstance(content, str) else text_of(content)
        )
        if refusal and not is_read and refusal != (content if isinstance(content, str) else text_of(content)):
            yield f"messages[{number}].refusal"


def text_of(parts: Any) -> str:
    """The joined text of a message's parts."""
    return "".join(part["refusal" if part["type"] == "refusal" else "text"] for part in parts or ())


def _without_tools(value: Mapping[str, Any], response_format: Mapping[str, Any]) -> Iterator[str]:
    if not value.get("tools"):
        yield from (one for one in ("tool_choice", "parallel_tool_calls") if value.get(one) is not None)
        return
    free = ("none",) if _asks_for_json(value, response_format) else ("auto", "none")
    if (value.get("tool_choice") or "auto") in free:
        for number, tool in enumerate(value["tools"]):
            if tool["function"].get("strict"):
                yield f"tools[{number}].function.strict"
    if value.get("tool_choice") not in (None, "auto", "none"):
        yield from _constraint(value, response_format)


def _constraint(value: Mapping[str, Any], response_format: Mapping[str, Any]) -> Iterator[str]:
    """The parameter that constrains the answer, if there is one."""
    kind = response_format.get("type", "text")
    if kind == "json_object":
        yield "response_format"
    elif kind != "text":
        yield "response_format.json_schema.schema" if kind == "json_schema" else f"response_format.{kind}"
    yield from (name for name in _CONSTRAINTS if value.get(name) is not None)


def can_compare(value: Mapping[str, Any]) -> bool:
    """Whether the answer to a body has all that can be compared, and is the same each time."""
    options = value.get("stream_options") or {}
    asks_all = value.get("return_token_ids") and options.get("include_usage")
    return bool(asks_all) and (value.get("temperature") == 0 or value.get("seed") is not None)


def message_of(value: Any, name: str) -> GenerateRequest | None:
    """The gRPC message that is equivalent to a body; None if there is none."""
    request = plain(value, components()[name])
    if any(value.get(refused) is not None for refused in _REFUSED[name]) or _is_only_rest(request):
        return None
    try:
        return grpc_request(request)
    except (ParseError, KeyError, ValueError, OverflowError):
        return None


def _is_only_rest(request: Mapping[str, Any]) -> bool:
    """Whether no message is equivalent to a body: it sets something twice, or leaves out a required value."""
    limits = {request[limit] for limit in ("max_tokens", "max_completion_tokens") if limit in request}
    is_constrained = request.get("response_format", {"type": "text"})["type"] != "text"
    constraints = is_constrained + sum(constraint in request for constraint in _CONSTRAINTS)
    silent = [turn for turn in request.get("messages", ()) if "content" not in turn]
    return (
        len(limits) > 1
        or constraints > 1
        or ("whitespace" in request and not constraints)
        or request.get("best_of", 1) not in (1, request.get("n"))
        or any(turn["role"] != "assistant" for turn in silent)
        or request.get("prompt") == []
    )


def service_name(param: str | None, request: Mapping[str, Any]) -> str | None:
    """The service's name of a parameter, from the name that either transport uses."""
    if param is None:
        return None
    kind = request.get("response_format", {}).get("type")
    ours = {
        "max_completion_tokens": "max_tokens",
        "guided_json": "response_format.json_schema.schema",
        f"response_format.{kind}": "guided_regex" if kind == "regex" else "guided_grammar",
        **({"logprobs": "top_logprobs"} if "messages" not in request else {}),
    }
    for name, own in ours.items():
        if param == name or param.startswith((f"{name}.", f"{name}[")):
            return own + param.removeprefix(name)
    return param
