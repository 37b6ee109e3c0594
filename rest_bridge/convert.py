"""Schemas → protobuf, and the client's nouns → JSON. Pure.

Only what the caller set goes out: every default and every range lives in the service.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from lodestream.inference.v1 import generation_pb2
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_client import Choice, FinishReason, Generation, Model, Timings, Usage
from rest_bridge.errors import ApiError, invalid
from rest_bridge.schemas.chat import ChatCompletionRequest
from rest_bridge.schemas.completions import CompletionRequest
from rest_bridge.schemas.generation import GenerationRequest

Json = dict[str, Any]

_ROLES = {
    "system": generation_pb2.ROLE_SYSTEM,
    "developer": generation_pb2.ROLE_SYSTEM,
    "user": generation_pb2.ROLE_USER,
    "assistant": generation_pb2.ROLE_ASSISTANT,
}
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


_UINT32 = 2**32 - 1
_LONGEST_NUMBER = 24
"""Digits of a number that a message still repeats."""


def chat_request(body: ChatCompletionRequest) -> GenerateRequest:
    """The request of a chat completion.

    Raises:
        ApiError: 400, a number fits no field of the protocol, or two names of one parameter differ.

    """
    message = _common(body)
    message.chat.SetInParent()
    for turn in body.messages:
        message.chat.messages.add(role=_ROLES[turn.role], content=turn.text)
    return message


def completion_request(body: CompletionRequest) -> GenerateRequest:
    """The request of a text completion.

    Raises:
        ApiError: as `chat_request`.

    """
    message = _common(body)
    if isinstance(body.prompt, str):
        message.prompt = body.prompt
    else:
        _extend(message.token_ids.ids, body.prompt, "prompt")
    return message


def _common(body: GenerationRequest) -> GenerateRequest:
    message = GenerateRequest(model=body.model)
    for name in _SAMPLING:
        _set(message.sampling, name, getattr(body, name), body)
    _set(message.stopping, "max_tokens", _max_tokens(body), body)
    _set(message.stopping, "ignore_eos", body.ignore_eos, body)
    if body.stop:
        message.stopping.stop.extend(body.stop)
    if body.stop_token_ids:
        _extend(message.stopping.stop_token_ids, body.stop_token_ids, "stop_token_ids")
    _set(message, "user", body.user, body)
    return message


def _max_tokens(body: GenerationRequest) -> int | None:
    one, other = body.max_tokens, body.max_completion_tokens
    if one is not None and other is not None and one != other:
        raise invalid(
            "max_completion_tokens", "max_completion_tokens and max_tokens are one limit, but differ."
        )
    return other if one is None else one


def _set(target: Any, name: str, value: float | str | None, body: GenerationRequest) -> None:
    if value is None:
        return
    try:
        setattr(target, name, value)
    except ValueError:  # an integer of more bits than the field has
        raise _out_of_range(name, value, type(body)) from None


def _out_of_range(name: str, value: object, schema: type[GenerationRequest]) -> ApiError:
    documented = schema.model_json_schema()["properties"][name]
    return _outside(name, value, documented["minimum"], documented["maximum"])


def _extend(target: Any, ids: Sequence[int], name: str) -> None:
    try:
        target.extend(ids)
    except ValueError:
        bad = next(n for n, token in enumerate(ids) if not 0 <= token <= _UINT32)
        raise _outside(f"{name}[{bad}]", ids[bad], 0, _UINT32) from None


def _outside(name: str, value: object, low: int, high: int) -> ApiError:
    number = f"is {value}" if len(str(value)) <= _LONGEST_NUMBER else "is out of range"
    return invalid(name, f"{name} {number}; it must be in [{low}, {high}].")


def new_id(prefix: str) -> str:
    """A fresh id of a reply: `chatcmpl-…`, `cmpl-…`."""
    return f"{prefix}-{uuid.uuid4().hex}"


def finish_reason(reason: FinishReason) -> str:
    """Why a choice ended, as REST spells it. A reason newer than this bridge ends it all the same."""
    return "stop" if reason is FinishReason.UNKNOWN else reason.value


def usage(counts: Usage) -> Json:
    """Token counts."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
    }


def chat_reply(generation: Generation, model: str, region: str, with_token_ids: bool) -> Json:
    """The whole reply of a chat completion; `model` is the name that the caller used."""
    return _reply(
        "chatcmpl",
        "chat.completion",
        _chat_choice,
        generation,
        model=model,
        region=region,
        ids=with_token_ids,
    )


def completion_reply(generation: Generation, model: str, region: str, with_token_ids: bool) -> Json:
    """The whole reply of a text completion; `model` is the name that the caller used."""
    return _reply(
        "cmpl", "text_completion", _text_choice, generation, model=model, region=region, ids=with_token_ids
    )


def _reply(
    prefix: str,
    kind: str,
    shape: Callable[[Choice], Json],
    generation: Generation,
    *,
    model: str,
    region: str,
    ids: bool,
) -> Json:
    choices = [
        {
            "index": choice.index,
            **shape(choice),
            "logprobs": None,
            "finish_reason": finish_reason(choice.finish_reason),
            **({"token_ids": choice.token_ids} if ids else {}),
        }
        for choice in generation.choices
    ]
    return {
        "id": new_id(prefix),
        "object": kind,
        "created": generation.created,
        "model": model,
        "choices": choices,
        "usage": usage(generation.usage),
        "pg_metadata": _metadata(generation.timings, region),
    }


def _chat_choice(choice: Choice) -> Json:
    return {"message": {"role": "assistant", "content": choice.text, "refusal": None}}


def _text_choice(choice: Choice) -> Json:
    return {"text": choice.text}


def _metadata(timings: Timings, region: str) -> Json:
    inference = timings.prefill_ms + timings.decode_ms
    return {
        "region": region,
        "latency_ms": round(timings.queue_ms + inference),
        "queue_time_ms": round(timings.queue_ms),
        "inference_time_ms": round(inference),
    }


def model_json(model: Model) -> Json:
    """One served model."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "root": model.id,
        "parent": None,
        "permission": [],
        "aliases": model.aliases,
        "context_length": model.context_length,
        "vocabulary_size": model.vocabulary_size,
        "backend": model.backend,
        "max_concurrency": model.max_concurrency,
    }
