"""Keyword arguments → request messages. Pure; sets only what was given, so that 0 and unset differ.

Ranges are the service's to check: it has the one table, and answers with the parameter's name and range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from lodestream.inference.v1 import generate_service_pb2, generation_pb2, model_service_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message as ProtoMessage
    from typing_extensions import Required

Role = Literal["system", "user", "assistant"]

_ROLES = {
    "system": generation_pb2.ROLE_SYSTEM,
    "user": generation_pb2.ROLE_USER,
    "assistant": generation_pb2.ROLE_ASSISTANT,
}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    """Who speaks."""
    content: str
    """The text of the turn."""


Messages = Sequence[Message | Mapping[str, str]]
"""A conversation, oldest turn first; a mapping has the keys `role` and `content`."""


class GenerateOptions(TypedDict, total=False):
    """What one generation can be told: the keywords of `generate`, `stream` and `build_request`.

    Exactly one of `messages`, `prompt` and `token_ids` is given. None is the same as not given, and
    leaves the choice to the service.
    """

    model: Required[str]
    """A served model id or one of its aliases."""
    messages: Messages | None
    """A conversation, 1 turn or more."""
    prompt: str | None
    """Raw text."""
    token_ids: Sequence[int] | None
    """A prompt that is tokenised already, 1 id or more."""
    temperature: float | None
    """Range [0, 2]; 0 decodes greedily. Not given: 0.7."""
    top_p: float | None
    """Nucleus mass, range [0, 1]. Not given: 0.9."""
    top_k: int | None
    """Keeps the k likeliest tokens, 1 or more; 0 and -1 turn it off. Not given: off."""
    min_p: float | None
    """Drops tokens below this share of the likeliest one's probability, range [0, 1]. Not given: 0, off."""
    frequency_penalty: float | None
    """Range [-2, 2], on generated tokens only. Not given: 0."""
    presence_penalty: float | None
    """Range [-2, 2], on generated tokens only. Not given: 0."""
    repetition_penalty: float | None
    """Range (0, 2]; 1 is off. Not given: 1."""
    seed: int | None
    """Any signed 64-bit integer. Not given: a random one for each request."""
    max_tokens: int | None
    """Most tokens to generate, range [1, 4096]. Not given: 150, or what the context has room for."""
    stop: str | Sequence[str] | None
    """One text, or at most 4, each of 1 to 1024 characters, that end the generation."""
    stop_token_ids: Sequence[int] | None
    """At most 64 token ids that end the generation."""
    ignore_eos: bool | None
    """Keeps generating past the end-of-sequence token. Not given: false."""
    user: str | None
    """The caller's own name for the end user, at most 256 characters."""


def build_request(
    *,
    model: str,
    messages: Messages | None = None,
    prompt: str | None = None,
    token_ids: Sequence[int] | None = None,
    stop: str | Sequence[str] | None = None,
    user: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    stop_token_ids: Sequence[int] | None = None,
    ignore_eos: bool | None = None,
) -> generate_service_pb2.GenerateRequest:
    """The request message of one generation; `GenerateOptions` describes each keyword.

    Raises:
        TypeError: not exactly one input is given, or a value has the wrong type.
        ValueError: a role is unknown, a message is not a role and a content, or a number fits no field.

    """
    request = generate_service_pb2.GenerateRequest()
    _set(request, model=model, user=user)
    _set_input(request, messages, prompt, token_ids)
    _set(
        request.sampling,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    _set(request.stopping, max_tokens=max_tokens, ignore_eos=ignore_eos)
    # A lone text is a sequence of texts too, one for each of its characters.
    _extend(request.stopping, stop=[stop] if isinstance(stop, str) else stop, stop_token_ids=stop_token_ids)
    return request


def build_count_request(
    *,
    model: str,
    messages: Messages | None = None,
    prompt: str | None = None,
    token_ids: Sequence[int] | None = None,
) -> model_service_pb2.CountTokensRequest:
    """The request message of one count; raises what `build_request` raises."""
    request = model_service_pb2.CountTokensRequest()
    _set(request, model=model)
    _set_input(request, messages, prompt, token_ids)
    return request


def _set_input(
    request: generate_service_pb2.GenerateRequest | model_service_pb2.CountTokensRequest,
    messages: Messages | None,
    prompt: str | None,
    token_ids: Sequence[int] | None,
) -> None:
    inputs = {"messages": messages, "prompt": prompt, "token_ids": token_ids}
    given = [name for name, value in inputs.items() if value is not None]
    if len(given) != 1:
        raise TypeError(
            f"Give exactly one of messages, prompt and token_ids; got {' and '.join(given) or 'none'}."
        )
    _set(request, prompt=prompt)
    if messages is not None:
        turns = [_chat_message(index, message) for index, message in enumerate(messages)]
        request.chat.CopyFrom(generation_pb2.ChatInput(messages=turns))
    if token_ids is not None:
        request.token_ids.SetInParent()
        _extend_field(request.token_ids.ids, "token_ids", token_ids)


def _chat_message(index: int, message: Message | Mapping[str, str]) -> generation_pb2.ChatMessage:
    name = f"messages[{index}]"
    if isinstance(message, Message):
        role, content = str(message.role), message.content
    elif set(message) == {"role", "content"}:
        role, content = message["role"], message["content"]
    else:
        raise ValueError(f"{name} must have the keys role and content, and no other.")
    if role not in _ROLES:
        raise ValueError(f"{name}.role must be one of {', '.join(_ROLES)}.")
    turn = generation_pb2.ChatMessage(role=_ROLES[role])
    _set_as(turn, "content", f"{name}.content", content)
    return turn


def _set(message: ProtoMessage, **values: Any) -> None:
    for name, value in values.items():
        if value is not None:
            _set_as(message, name, name, value)


def _set_as(message: ProtoMessage, field: str, name: str, value: Any) -> None:
    try:
        setattr(message, field, value)
    except (TypeError, ValueError) as error:
        raise _misfit(name, error) from None


def _extend(message: ProtoMessage, **values: Any) -> None:
    for name, value in values.items():
        if value is not None:
            _extend_field(getattr(message, name), name, value)


def _extend_field(field: Any, name: str, values: Any) -> None:
    try:
        field.extend(values)
    except (TypeError, ValueError) as error:
        raise _misfit(name, error) from None


def _misfit(name: str, error: TypeError | ValueError) -> TypeError | ValueError:
    if isinstance(error, UnicodeEncodeError):
        return ValueError(f"{name} does not fit: half a surrogate pair is not text.")
    return type(error)(f"{name} does not fit: {error}")
