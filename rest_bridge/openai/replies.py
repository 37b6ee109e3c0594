"""Whole replies out of what the client returns, and the parts that they share with chunks."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from inference_client import Choice, Generation, TokenLogprob, ToolCall, ToolCallDelta
from rest_bridge.openai.metadata import (
    Json,
    ReplyOptions,
    ResponseMetadata,
    finish_reason,
    new_id,
    parameters,
    usage,
)

LogprobsWriter = Callable[[Sequence[TokenLogprob]], Json]
"""Writes the next tokens of one choice."""

_LEAST = -9999.0
"""JSON has no minus infinity; this is what OpenAI's own API says in its place."""


def chat_logprobs() -> LogprobsWriter:
    """The writer for a choice of a conversation."""
    return lambda tokens: {"content": [_chat_token(token) for token in tokens], "refusal": None}


def _chat_token(token: TokenLogprob) -> Json:
    return {**_chat_entry(token), "top_logprobs": [_chat_entry(entry) for entry in token.top]}


def _chat_entry(token: TokenLogprob) -> Json:
    return {"token": token.token, "bytes": list(token.bytes) or None, "logprob": _finite(token.logprob)}


class CompletionLogprobs:
    """The writer for a choice of a completion. It counts characters, from one piece to the next."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def __call__(self, tokens: Sequence[TokenLogprob]) -> Json:
        """Write the next tokens."""
        return {
            "tokens": [_name(token) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [_by_name((*token.top, token)) for token in tokens],
            "text_offset": [self._pass(token) for token in tokens],
        }

    def _pass(self, token: TokenLogprob) -> int:
        """Where a token begins; one that goes on with a character begins where that does."""
        offset = self._offset
        self._offset += len(self._utf8.decode(token.bytes))
        return offset


def _by_name(tokens: Iterable[TokenLogprob]) -> dict[str, float]:
    """The likeliest one of each name."""
    found: dict[str, float] = {}
    for token in tokens:
        found.setdefault(_name(token), _finite(token.logprob))
    return found


def _name(token: TokenLogprob) -> str:
    """The text of a token; of part of a character, which many tokens would share, its bytes."""
    if "\ufffd" not in token.token:
        return token.token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)


def whole_call(call: ToolCall) -> Json:
    """A call as a message has it."""
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def call_piece(piece: ToolCallDelta) -> Json:
    """A piece of a call as a chunk has it: id, type and name in the first one, and only there."""
    if piece.id is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    return {
        "index": piece.index,
        "id": piece.id,
        "type": "function",
        "function": {"name": piece.name, "arguments": piece.arguments},
    }


@dataclass(frozen=True, slots=True)
class Reply:
    """How the whole replies of one endpoint look."""

    prefix: str
    """Of the reply's id."""
    kind: str
    """`object` of the reply."""
    content: Callable[[Choice], Json]
    """What a choice says."""
    logprobs: Callable[[], LogprobsWriter]

    def render(
        self, generation: Generation, model: str, wanted: ReplyOptions, account: ResponseMetadata
    ) -> Json:
        """The whole reply; `model` is the name that the caller used."""
        return {
            **self._head(generation, self.kind, model),
            "choices": [self._choice(choice, wanted) for choice in generation.choices],
            "usage": usage(generation.usage),
            "pg_metadata": account.metadata(generation, (choice.finished for choice in generation.choices)),
        }

    def validation(self, generation: Generation, model: str, account: ResponseMetadata) -> Json:
        """The reply to a request that was only to be checked."""
        report = generation.report
        return {
            **self._head(generation, "validation", model),
            "choices": [],
            "usage": usage(generation.usage),
            "parameters": parameters(report),
            "queue_estimate_ms": report.queue_estimate_ms,
            "ignored_parameters": account.ignored_by_all(report),
        }

    def _head(self, generation: Generation, kind: str, model: str) -> Json:
        return {"id": new_id(self.prefix), "object": kind, "created": generation.created, "model": model}

    def _choice(self, choice: Choice, wanted: ReplyOptions) -> Json:
        return {
            "index": choice.index,
            **self.content(choice),
            "logprobs": self.logprobs()(choice.logprobs) if wanted.logprobs else None,
            "finish_reason": finish_reason(choice.finish_reason),
            **({"token_ids": choice.token_ids} if wanted.token_ids else {}),
        }


def _message(choice: Choice) -> Json:
    if not choice.tool_calls:
        return {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
    calls = [whole_call(call) for call in choice.tool_calls]
    content = choice.text or None
    return {"message": {"role": "assistant", "content": content, "refusal": None, "tool_calls": calls}}


def _text(choice: Choice) -> Json:
    return {"text": choice.text}


CHAT_REPLY = Reply("chatcmpl", "chat.completion", _message, chat_logprobs)
COMPLETION_REPLY = Reply("cmpl", "text_completion", _text, CompletionLogprobs)
