"""The client's nouns → whole replies. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inference_client import Choice, Generation
from rest_bridge.account import Account, parameters
from rest_bridge.answer import Json, finish_reason, new_id, usage
from rest_bridge.logprobs import CompletionLogprobs, LogprobsWriter, chat_logprobs
from rest_bridge.tool_calls import whole_call
from rest_bridge.wanted import Wanted


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

    def render(self, generation: Generation, model: str, wanted: Wanted, account: Account) -> Json:
        """The whole reply; `model` is the name that the caller used."""
        return {
            **self._head(generation, self.kind, model),
            "choices": [self._choice(choice, wanted) for choice in generation.choices],
            "usage": usage(generation.usage),
            "pg_metadata": account.metadata(generation, (choice.finished for choice in generation.choices)),
        }

    def validation(self, generation: Generation, model: str, account: Account) -> Json:
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

    def _choice(self, choice: Choice, wanted: Wanted) -> Json:
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
