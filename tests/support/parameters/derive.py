"""Derives the outcome of a parameter from the bridge's policy and conversion, and the service's checks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_service.errors import InvalidRequest
from inference_service.request.generate import parse_generate
from inference_service.scheduling.served_model import ServedModel
from rest_bridge.errors import ApiError, rest_name
from rest_bridge.openai import policy
from rest_bridge.openai.convert import chat_request, completion_request, own_names
from rest_bridge.openai.requests import ChatCompletionRequest, CompletionRequest
from rest_bridge.request import parse_body
from tests.support.parameters.engines import NAMES, Engines
from tests.support.parameters.sample import Body, Sample, minimal_chat, minimal_completion

HONOURED, REFUSED, NO_EFFECT = "honoured", "refused", "no effect"
_UNSUPPORTED = "unsupported_parameter"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint that generates."""

    path: str
    least: Callable[[Body], dict[str, Any]]
    """A minimal request with the given members."""
    schema: type[ChatCompletionRequest] | type[CompletionRequest]
    convert: Callable[[Any], GenerateRequest]

    def parse(self, body: Body) -> Any:
        return parse_body(self.schema, json.dumps(self.least(body)).encode())


CHAT = Endpoint("/v1/chat/completions", minimal_chat, ChatCompletionRequest, chat_request)
COMPLETIONS = Endpoint("/v1/completions", minimal_completion, CompletionRequest, completion_request)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a parameter on one engine."""

    kind: str
    """HONOURED, REFUSED or NO_EFFECT."""
    depends: bool = False
    """Whether it is refused if the installed library lacks a feature."""
    ceiling: float | None = None
    """The largest value that the engine accepts, if the API allows more."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the page: a parameter with its outcomes."""

    sample: Sample
    grpc: tuple[str, ...]
    """The fields of the protocol that the parameter sets."""
    outcomes: Mapping[str, Outcome]
    """The outcome by engine."""


def derive(sample: Sample, endpoint: Endpoint, engines: Engines) -> Row:
    """Derive the outcomes of a parameter at an endpoint.

    Raises:
        ValueError: the bodies of the sample do not agree.

    """
    found = [_outcomes(sample.path, endpoint, body, engines) for body in sample.requests]
    if any(outcomes != found[0] for outcomes in found):
        raise ValueError(f"{sample.path}: the samples have different outcomes")
    fields = dict.fromkeys(
        field for body in sample.requests for field in _fields(endpoint, body, sample.beside)
    )
    return Row(sample, tuple(fields), found[0])


def plain_path(name: str) -> str:
    """The name from a reply without indexes: `messages[].name`."""
    return re.sub(r"\[\d+]", "[]", name)


def _outcomes(path: str, endpoint: Endpoint, body: Body, engines: Engines) -> Mapping[str, Outcome]:
    try:
        parsed = endpoint.parse(body)
        streams = bool(parsed.stream) and not parsed.validate_only
        ignored_here = policy.ignored_parameters(parsed, streams=streams, strict=False)
        message = endpoint.convert(parsed)
    except ApiError as error:
        if error.code != _UNSUPPORTED:
            raise
        return dict.fromkeys(NAMES, Outcome(REFUSED))
    ignored_there = (rest_name(path, own_names(parsed)) for path in _ignored_by_service(message))
    is_ignored = path in map(plain_path, (*ignored_here, *ignored_there))
    accepted = NO_EFFECT if is_ignored else HONOURED
    return {name: _at_engine(path, message, engines, name, accepted) for name in NAMES}


def _ignored_by_service(message: GenerateRequest) -> tuple[str, ...]:
    try:
        return parse_generate(message).ignored
    except InvalidRequest:
        return ()


def _at_engine(path: str, message: GenerateRequest, engines: Engines, name: str, accepted: str) -> Outcome:
    if _is_refused(message, engines.at_best[name]):
        return Outcome(REFUSED)
    depends = name == engines.at_worst.engine.name and _is_refused(message, engines.at_worst)
    return Outcome(accepted, depends, engines.at_best[name].engine.ceilings.get(path))


def _is_refused(message: GenerateRequest, model: ServedModel) -> bool:
    try:
        model.check(parse_generate(message))
    except InvalidRequest as error:
        if any(violation.code != _UNSUPPORTED for violation in error.violations):
            raise
        return True
    return False


def _fields(endpoint: Endpoint, body: Body, beside: Body) -> Iterator[str]:
    """The fields that a body sets in addition to the members beside the parameter."""
    try:
        message, other = (endpoint.convert(endpoint.parse(given)) for given in (body, beside))
    except ApiError:
        return
    before = dict(leaves(other))
    yield from (field for field, value in leaves(message) if before.get(field) != value)


def leaves(message: Message, path: str = "") -> Iterator[tuple[str, Any]]:
    """The set fields with their values; fields of messages in an array are combined."""
    found: dict[str, list[Any]] = {}
    for field, value in message.ListFields():
        here = path + field.name
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            found.setdefault(here, []).append(value)
            continue
        for part in value if field.is_repeated else (value,):
            for leaf, inner in leaves(part, f"{here}."):
                found.setdefault(leaf, []).append(inner)
    yield from found.items()
