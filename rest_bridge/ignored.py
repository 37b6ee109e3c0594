"""THE policy for parameters that the schemas do not declare: refused, without effect, or unknown.

A parameter that becomes supported leaves its row here and enters a schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rest_bridge.errors import unsupported
from rest_bridge.schemas.chat import ChatCompletionRequest, ChatMessage
from rest_bridge.schemas.generation import GenerationRequest

Harmless = tuple[object, ...]
"""The values, beside null, in which a parameter asks for nothing; given so, it is accepted."""

_EVERYWHERE: Mapping[str, Harmless] = {
    "n": (1,),
    "logit_bias": ({},),
    # How other servers call the constraints of the output.
    "ebnf": (),
    "grammar": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "json_schema": (),
    "regex": (),
    "structured_outputs": (),
}

REFUSED_IN_CHAT: Mapping[str, Harmless] = {
    **_EVERYWHERE,
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logprobs": (False,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "web_search_options": (),
}

REFUSED_IN_COMPLETIONS: Mapping[str, Harmless] = {
    **_EVERYWHERE,
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
}

REFUSED_IN_MESSAGES: Mapping[str, Harmless] = {"audio": (), "function_call": (), "tool_calls": ([],)}

WITHOUT_EFFECT = frozenset(
    {
        "enable_thinking",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
    }
)
"""Known, and without effect here by their nature."""

_HEADER_LIMIT = 1000
_NAME_LIMIT = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of the undeclared members of one kind of object."""

    refused: Mapping[str, Harmless] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()


CHAT = Policy(REFUSED_IN_CHAT, WITHOUT_EFFECT)
COMPLETIONS = Policy(REFUSED_IN_COMPLETIONS, WITHOUT_EFFECT)
_MESSAGES = Policy(REFUSED_IN_MESSAGES, frozenset({"name", "refusal"}))
_OTHERS = Policy()


def ignored_parameters(request: GenerationRequest, *, streams: bool, strict: bool) -> list[str]:
    """Name what the request asks for and will not get: `store`, `messages[0].name`. Null asks for nothing.

    Raises:
        ApiError: a parameter cannot be honoured here, or nobody knows it and `strict` is set.

    """
    names = [
        path + _clean(name)
        for path, extras, policy in _objects(request)
        for name, value in extras.items()
        if value is not None and _is_ignored(path, name, value, policy, strict)
    ]
    if request.stream_options is not None and not streams:
        names.append("stream_options")
    return names


def header_value(names: Iterable[str]) -> str:
    """The value of `x-ignored-parameters`; ends with `...` where there are too many names."""
    value = ",".join(names)
    return value if len(value) <= _HEADER_LIMIT else value[:_HEADER_LIMIT].rpartition(",")[0] + ",..."


def _objects(request: GenerationRequest) -> Iterator[tuple[str, Mapping[str, Any], Policy]]:
    """Every object of the request that has undeclared members, with its path."""
    yield "", request.model_extra or {}, CHAT if isinstance(request, ChatCompletionRequest) else COMPLETIONS
    if request.stream_options is not None:
        yield "stream_options.", request.stream_options.model_extra or {}, _OTHERS
    if isinstance(request, ChatCompletionRequest):
        for number, message in enumerate(request.messages):
            yield from _message_objects(f"messages[{number}].", message)


def _message_objects(path: str, message: ChatMessage) -> Iterator[tuple[str, Mapping[str, Any], Policy]]:
    yield path, message.model_extra or {}, _MESSAGES
    if isinstance(message.content, list):
        for number, part in enumerate(message.content):
            yield f"{path}content[{number}].", part.model_extra or {}, _OTHERS


def _is_ignored(path: str, name: str, value: object, policy: Policy, strict: bool) -> bool:
    if name in policy.refused:
        if _is_harmless(value, policy.refused[name]):
            return False
        raise unsupported(path + name, f"{path}{name} is not supported here.")
    if strict and name not in policy.without_effect:
        raise unsupported(path + _clean(name), f"{path}{_clean(name)} is not a parameter that is known here.")
    return True


def _is_harmless(value: object, harmless: Harmless) -> bool:
    # 1 == True == 1.0 in Python, but not in JSON.
    return any(type(value) is type(given) and value == given for given in harmless)


def _clean(name: str) -> str:
    return _UNSAFE.sub("_", name[:_NAME_LIMIT]) or "_"
