"""THE policy for parameters that the schemas do not declare: refused, without effect, or unknown.

A parameter that becomes supported leaves its row here and enters a schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from rest_bridge.errors import unsupported
from rest_bridge.openai import other_servers
from rest_bridge.openai.inputs import RequestModel
from rest_bridge.openai.other_servers import Harmless
from rest_bridge.openai.requests import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationRequest,
)
from rest_bridge.openai.tools import FORMATS, ResponseFormat

REFUSED_IN_CHAT: Mapping[str, Harmless] = {
    **other_servers.EVERYWHERE,
    **other_servers.IN_CHAT,
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "web_search_options": (),
}

REFUSED_IN_COMPLETIONS: Mapping[str, Harmless] = {
    **other_servers.EVERYWHERE,
    **other_servers.IN_COMPLETIONS,
    "suffix": ("",),
}

REFUSED_IN_MESSAGES: Mapping[str, Harmless] = {
    **other_servers.IN_MESSAGES,
    "audio": (),
    "function_call": (),
}

WITHOUT_EFFECT = frozenset(
    {
        "enable_thinking",
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
    }
)
"""Known, and without effect here by their nature."""

_PLAIN = frozenset({bool, int, float, str, dict})
HEADER = "x-ignored-parameters"
_HEADER_LIMIT = 1000
_NAME_LIMIT = 64
_PATH_LIMIT = 200
"""Of the path of a schema's keyword."""
_SCHEMAS = ("tools[", "response_format.", "guided_json")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of the undeclared members of one kind of object."""

    refused: Mapping[str, Harmless] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()


CHAT = Policy(REFUSED_IN_CHAT, WITHOUT_EFFECT)
COMPLETIONS = Policy(REFUSED_IN_COMPLETIONS, WITHOUT_EFFECT)
_OTHERS = Policy()
_POLICIES: Mapping[type[BaseModel], Policy] = {
    ChatCompletionRequest: CHAT,
    CompletionRequest: COMPLETIONS,
    ChatMessage: Policy(REFUSED_IN_MESSAGES, frozenset({"name"})),
}


def ignored_parameters(request: GenerationRequest, *, streams: bool, strict: bool) -> list[str]:
    """Name what the request asks for and will not get: `store`, `messages[0].name`. Null asks for nothing.

    Raises:
        ApiError: a parameter cannot be honoured here, or nobody knows it and `strict` is set.

    """
    names = [
        path + _clean(name)
        for path, model in _objects("", request)
        for name, value in (model.model_extra or {}).items()
        if value is not None and _is_ignored(path, name, value, policy_of(type(model)), strict)
    ]
    return [*names, *_without_sense(request, streams)]


def header(names: Iterable[str]) -> dict[str, str]:
    """The header that names them, where there are any; ends with `...` where there are too many."""
    value = ",".join(_clean(name) for name in names)
    if len(value) > _HEADER_LIMIT:
        value = value[:_HEADER_LIMIT].rpartition(",")[0] + ",..."
    return {HEADER: value} if value else {}


def _objects(path: str, model: RequestModel) -> Iterator[tuple[str, RequestModel]]:
    """Every object of a request with its path: `tools[0].function.`."""
    yield path, model
    for name, value in model.__dict__.items():
        # Most are unset, or plain; asking a model's class who belongs to it takes long.
        if value is None or type(value) in _PLAIN:
            continue
        if isinstance(value, RequestModel):
            yield from _objects(f"{path}{name}.", value)
        elif isinstance(value, list) and value and isinstance(value[0], RequestModel):
            for number, element in enumerate(value):
                yield from _objects(f"{path}{name}[{number}].", element)


def policy_of(schema: type[RequestModel]) -> Policy:
    """What becomes of the undeclared members of such objects."""
    return _POLICIES.get(schema, _OTHERS)


def _without_sense(request: GenerationRequest, streams: bool) -> Iterator[str]:
    """Parameters that mean nothing together with the others, of those that the service never sees."""
    if request.stream_options is not None and not streams:
        yield "stream_options"
    if request.stream and not streams:
        yield "stream"
    if request.response_format is not None:
        yield from _of_format(request.response_format)
    if isinstance(request, ChatCompletionRequest):
        yield from _unread_refusals(request)


def _unread_refusals(request: ChatCompletionRequest) -> Iterator[str]:
    for number, turn in enumerate(request.messages):
        if turn.refusal is not None and turn.text != turn.refusal:
            yield f"messages[{number}].refusal"


def _of_format(wanted: ResponseFormat) -> Iterator[str]:
    """What a format holds and only one of another type needs, or nobody reads."""
    for name in FORMATS:
        if name != wanted.type and getattr(wanted, name, None) is not None:
            yield f"response_format.{name}"
    if wanted.type == "json_schema" and wanted.json_schema and wanted.json_schema.description:
        yield "response_format.json_schema.description"


def _is_ignored(path: str, name: str, value: object, policy: Policy, strict: bool) -> bool:
    if name in policy.refused:
        if _is_harmless(value, policy.refused[name]):
            return False
        what = f"{path}{name} is not supported here.{other_servers.advice(name)}"
        raise unsupported(path + name, what)
    if strict and name not in policy.without_effect:
        raise unsupported(path + _clean(name), f"{path}{_clean(name)} is not a parameter that is known here.")
    return True


def _is_harmless(value: object, harmless: Harmless) -> bool:
    # 1 == True == 1.0 in Python, but not in JSON.
    return any(type(value) is type(given) and value == given for given in harmless)


def _clean(name: str) -> str:
    limit = _PATH_LIMIT if name.startswith(_SCHEMAS) else _NAME_LIMIT
    return _UNSAFE.sub("_", name[:limit]) or "_"
