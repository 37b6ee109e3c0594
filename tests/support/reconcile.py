"""Removes contradictions between the parameters of a random request."""

from __future__ import annotations

from random import Random
from typing import Any

_MAX_CHOICES = 32
_CONSTRAINTS = ("response_format", "guided_json", "guided_regex", "guided_grammar")
_CALL = 'Go! @say<<{"name": "%s", "arguments": {}}>>'


def reconcile(random: Random, body: dict[str, Any]) -> dict[str, Any]:
    """Change a body whose parameters are each valid so that they do not contradict each other."""
    _repeat(random, body)
    _keep_one_limit(body)
    if "messages" in body:
        body["messages"] = [_turn(turn) for turn in body["messages"]] or [{"role": "user", "content": "x"}]
        _choose_tools(random, body)
        _end_prompt(body)
    _constrain(random, body)
    _count_choices(body)
    if not body.get("logprobs") and body.get("top_logprobs"):
        del body["top_logprobs"]
    if body.get("logprobs") is not None:
        body.pop("echo", None)
    return body


def _repeat(random: Random, body: dict[str, Any]) -> None:
    """Decode greedily or with a seed, so that the answer is the same each time."""
    body["temperature"] = 0
    if isinstance(body.get("seed"), int) and random.random() < 0.5:
        body["temperature"] = random.choice([0.5, 1, 2.0, 1e-9])


def _keep_one_limit(body: dict[str, Any]) -> None:
    """Keep one small limit of tokens, since an answer may not end by itself."""
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or 12
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name) is not None:
            body[name] = limit
    if body.get("max_completion_tokens") is None:
        body["max_tokens"] = limit


def _turn(turn: dict[str, Any]) -> dict[str, Any]:
    role = turn["role"]
    turn.pop("tool_calls" if role != "assistant" else "", None)
    turn.pop("tool_call_id", None)
    if role == "tool":
        turn["tool_call_id"] = "call_1"
    if role != "assistant" and not _is_for_all(turn.get("content")):
        turn["content"] = "x"
    return turn


def _is_for_all(content: Any) -> bool:
    parts = content if isinstance(content, list) else []
    return content is not None and all(part["type"] == "text" for part in parts)


def _end_prompt(body: dict[str, Any]) -> None:
    """Continue the final message or begin a new one; a message with calls cannot be continued."""
    if body["messages"][-1].get("tool_calls"):
        body.pop("continue_final_message", None)
    if body.get("continue_final_message"):
        body.pop("add_generation_prompt", None)


def _choose_tools(random: Random, body: dict[str, Any]) -> None:
    if not body.get("tools"):
        for name in ("tool_choice", "parallel_tool_calls"):
            body.pop(name, None)
        return
    choice = body.get("tool_choice")
    name = random.choice([tool["function"]["name"] for tool in body["tools"]])
    if isinstance(choice, dict):
        choice["function"]["name"] = name
    if random.random() < 0.6:
        _have_called(body, name)


def _have_called(body: dict[str, Any], name: str) -> None:
    """Script a call, and allow enough tokens for it."""
    body["messages"].append({"role": "user", "content": _CALL % name})
    for limit in ("max_tokens", "max_completion_tokens"):
        if body.get(limit) is not None:
            body[limit] = 50


def _constrain(random: Random, body: dict[str, Any]) -> None:
    given = [name for name in _CONSTRAINTS if body.get(name) is not None]
    random.shuffle(given)
    for name in given[1:]:
        del body[name]
    if body.get("response_format") is not None:
        body["response_format"] = _format(body["response_format"])
    if _calls_tools(body) and _is_no_schema(body):
        for name in _CONSTRAINTS:
            body.pop(name, None)
    demands = body.get("tool_choice") not in (None, "auto", "none")
    is_constrained = any(body.get(name) is not None for name in _CONSTRAINTS)
    if demands or is_constrained:
        body.pop("ignore_eos", None)
    if not is_constrained or (body.get("response_format") or {}).get("type") == "text":
        body.pop("whitespace", None)


def _format(format_: dict[str, Any]) -> dict[str, Any]:
    kind = format_["type"]
    needed = {"json_schema": {"schema": {"type": "object"}}, "regex": "[a-z]{1,3}"}
    value = format_.get(kind) or needed.get(kind, 'root ::= "a" | "b"')
    return {"type": kind} if kind in ("text", "json_object") else {"type": kind, kind: value}


def _calls_tools(body: dict[str, Any]) -> bool:
    return bool(body.get("tools")) and body.get("tool_choice") != "none"


def _is_no_schema(body: dict[str, Any]) -> bool:
    kind = (body.get("response_format") or {}).get("type")
    return (
        kind in ("regex", "grammar", "ebnf")
        or body.get("guided_regex") is not None
        or body.get("guided_grammar") is not None
    )


def _count_choices(body: dict[str, Any]) -> None:
    prompt = body.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    if (body.get("n") or 1) * prompts > _MAX_CHOICES:
        body["n"] = _MAX_CHOICES // prompts
    if body.get("best_of") is not None:
        body["best_of"] = body.get("n") or 1
