"""Writes whole responses, and the parts that they share with the chunks of a stream."""

from __future__ import annotations

import codecs
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import orjson
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest
from starlette.responses import Response

from inference_client import (
    Choice,
    EffectiveSampling,
    Finished,
    FinishReason,
    Generation,
    Report,
    Started,
    Summary,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from rest_bridge.errors import rest_name
from rest_bridge.middleware import RequestContext
from rest_bridge.openai.requests import GenerationRequest

Json = dict[str, Any]
LogprobsWriter = Callable[[Sequence[TokenLogprob]], Json]
"""Writes the log probabilities of the next tokens of one choice."""

_MIN_LOGPROB = -9999.0
"""JSON has no minus infinity; OpenAI's own API sends this number in its place."""


def json_response(content: Json, headers: dict[str, str] | None = None) -> Response:
    """A response with a JSON body."""
    return Response(orjson.dumps(content), headers=headers, media_type="application/json")


@dataclass(frozen=True, slots=True)
class ResponseContext:
    """The facts about a request that its response is written from, known before the generation starts."""

    request: RequestContext
    model: str
    """The model's name, as the caller wrote it."""
    region: str
    ignored: Sequence[str] = ()
    """Parameters without effect, as far as the bridge knows them itself."""
    has_token_ids: bool = False
    has_logprobs: bool = False
    has_tool_calls: bool = False
    has_usage: bool = False
    """Only for streams: one more chunk has the token counts."""

    @classmethod
    def of(
        cls,
        request: RequestContext,
        body: GenerationRequest,
        message: GenerateRequest,
        region: str,
        ignored: Sequence[str],
    ) -> ResponseContext:
        """The facts about a request. It keeps neither the body nor the message, which may be large."""
        return cls(
            request,
            body.model,
            region,
            ignored,
            has_token_ids=bool(body.return_token_ids),
            has_logprobs=message.output.logprobs,
            has_tool_calls=bool(message.chat.tools),
            has_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
        )

    @property
    def has_only_text(self) -> bool:
        """Whether deltas have text and nothing else."""
        return not (self.has_token_ids or self.has_logprobs or self.has_tool_calls)

    def ignored_parameters(self, reported: Started | Report) -> list[str]:
        """All parameters without effect, those that the service reports included, by their REST names."""
        by_service = (rest_name(path, self.request.names) for path in reported.ignored_parameters)
        return list(dict.fromkeys((*self.ignored, *by_service)))

    def metadata(self, result: Generation | Summary, endings: Iterable[Finished]) -> Json:
        """The `pg_metadata` of a whole response, or of the last chunk of a stream."""
        timings, report = result.timings, result.report
        inference, bridge = timings.prefill_ms + timings.decode_ms, self._bridge_ms(timings)
        return {
            "region": self.region,
            "latency_ms": round(timings.queue_ms + inference + bridge),
            "queue_time_ms": round(timings.queue_ms),
            "inference_time_ms": round(inference),
            # The service accepts requests only after the model is loaded.
            "model_load_time_ms": 0,
            "timings": {
                "queue_ms": _ms(timings.queue_ms),
                "prefill_ms": _ms(timings.prefill_ms),
                "decode_ms": _ms(timings.decode_ms),
                "bridge_ms": _ms(bridge),
                "time_to_first_token_ms": _ms(timings.time_to_first_token_ms),
            },
            "batch_size": report.batch_size,
            "parameters": effective_parameters(report),
            "ignored_parameters": self.ignored_parameters(report),
            "choices": [_ending(ending) for ending in endings],
        }

    def headers(self, generation: Generation) -> dict[str, str]:
        """The timings, the batch size and the cached tokens, as headers of a whole response."""
        timings, cached = generation.timings, generation.usage.cached_tokens
        return {
            "x-queue-ms": str(_ms(timings.queue_ms)),
            "x-prefill-ms": str(_ms(timings.prefill_ms)),
            "x-decode-ms": str(_ms(timings.decode_ms)),
            "x-bridge-ms": str(_ms(self._bridge_ms(timings))),
            "x-batch-size": str(generation.report.batch_size),
            **({} if cached is None else {"x-cached-tokens": str(cached)}),
        }

    def _bridge_ms(self, timings: Timings) -> float:
        """The time that the service did not measure: bridge, network, and waiting for a slow reader."""
        measured = timings.queue_ms + timings.prefill_ms + timings.decode_ms
        return max(0.0, self.request.elapsed_ms - measured)


@dataclass(frozen=True, slots=True)
class ResponseShape:
    """The form of the whole responses of one endpoint."""

    prefix: str
    """Prefix of the response's id."""
    kind: str
    """`object` of the response."""
    content: Callable[[Choice], Json]
    """Writes the message or the text of a choice."""
    logprobs: Callable[[], LogprobsWriter]

    def render(self, generation: Generation, context: ResponseContext) -> Json:
        """The body of a whole response."""
        endings = (choice.finished for choice in generation.choices)
        return {
            **self._head(generation, self.kind, context),
            "choices": [self._choice(choice, context) for choice in generation.choices],
            "usage": usage(generation.usage),
            "pg_metadata": context.metadata(generation, endings),
        }

    def validation(self, generation: Generation, context: ResponseContext) -> Json:
        """The body of the response to a request with `validate_only`."""
        report = generation.report
        return {
            **self._head(generation, "validation", context),
            "choices": [],
            "usage": usage(generation.usage),
            "parameters": effective_parameters(report),
            "queue_estimate_ms": report.queue_estimate_ms,
            "ignored_parameters": context.ignored_parameters(report),
        }

    def _head(self, generation: Generation, kind: str, context: ResponseContext) -> Json:
        return {
            "id": new_id(self.prefix),
            "object": kind,
            "created": generation.created,
            "model": context.model,
        }

    def _choice(self, choice: Choice, context: ResponseContext) -> Json:
        return {
            "index": choice.index,
            **self.content(choice),
            "logprobs": self.logprobs()(choice.logprobs) if context.has_logprobs else None,
            "finish_reason": finish_reason(choice.finish_reason),
            **({"token_ids": choice.token_ids} if context.has_token_ids else {}),
        }


def new_id(prefix: str) -> str:
    """A new id of a response: `chatcmpl-…`, `cmpl-…`."""
    return f"{prefix}-{uuid.uuid4().hex}"


def finish_reason(reason: FinishReason) -> str:
    """The REST name of a finish reason; `stop` for a reason that is newer than this bridge."""
    return "stop" if reason is FinishReason.UNKNOWN else reason.value


def usage(counts: Usage) -> Json:
    """Token counts. The details are absent where the engine does not report cached tokens."""
    is_known = counts.cached_tokens is not None
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
        **({"prompt_tokens_details": {"cached_tokens": counts.cached_tokens}} if is_known else {}),
    }


def effective_parameters(report: Report) -> Json:
    """The parameters in effect, by their names in requests."""
    return {"max_tokens": report.max_tokens, **_sampling(report.sampling)}


_SAMPLING = tuple(field.name for field in fields(EffectiveSampling))


def _sampling(sampling: EffectiveSampling) -> Json:
    biases = {str(token): bias for token, bias in sorted(sampling.logit_bias.items())}
    return {**{name: getattr(sampling, name) for name in _SAMPLING}, "logit_bias": biases}


def _ending(ending: Finished) -> Json:
    """How a choice ended, in more detail than `finish_reason` has."""
    return {
        "index": ending.choice_index,
        "cause": ending.cause.value,
        "stop_sequence": ending.stop_sequence,
        "stop_token_id": ending.stop_token_id,
        "filter_rule": ending.filter_rule,
    }


def _ms(value: float) -> float:
    return round(value, 3)


def chat_logprobs() -> LogprobsWriter:
    """Make the writer for a choice of a chat completion."""
    return lambda tokens: {"content": [_chat_token(token) for token in tokens], "refusal": None}


def _chat_token(token: TokenLogprob) -> Json:
    return {**_chat_entry(token), "top_logprobs": [_chat_entry(entry) for entry in token.top]}


def _chat_entry(token: TokenLogprob) -> Json:
    return {"token": token.token, "bytes": list(token.bytes) or None, "logprob": _finite(token.logprob)}


class CompletionLogprobs:
    """The writer for a choice of a text completion. It counts the characters of all tokens so far."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def __call__(self, tokens: Sequence[TokenLogprob]) -> Json:
        """Write the next tokens."""
        return {
            "tokens": [_name(token) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [_by_name((*token.top, token)) for token in tokens],
            "text_offset": [self._next_offset(token) for token in tokens],
        }

    def _next_offset(self, token: TokenLogprob) -> int:
        """The offset of a token; one that continues a character has the offset of that character."""
        offset = self._offset
        self._offset += len(self._utf8.decode(token.bytes))
        return offset


def _by_name(tokens: Iterable[TokenLogprob]) -> dict[str, float]:
    """The likeliest token of each name."""
    found: dict[str, float] = {}
    for token in tokens:
        found.setdefault(_name(token), _finite(token.logprob))
    return found


def _name(token: TokenLogprob) -> str:
    """The text of a token; its bytes if it is part of a character, as many tokens have the text U+FFFD."""
    if "\ufffd" not in token.token:
        return token.token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


def _finite(logprob: float) -> float:
    return max(logprob, _MIN_LOGPROB)


def tool_call(call: ToolCall) -> Json:
    """A tool call in a whole message."""
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def tool_call_delta(delta: ToolCallDelta) -> Json:
    """A part of a tool call in a chunk; only the first part has the id, the type and the name."""
    if delta.id is None:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    return {
        "index": delta.index,
        "id": delta.id,
        "type": "function",
        "function": {"name": delta.name, "arguments": delta.arguments},
    }


def _message(choice: Choice) -> Json:
    if not choice.tool_calls:
        return {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
    calls = [tool_call(call) for call in choice.tool_calls]
    content = choice.text or None
    return {"message": {"role": "assistant", "content": content, "refusal": None, "tool_calls": calls}}


def _text(choice: Choice) -> Json:
    return {"text": choice.text}


CHAT_RESPONSE = ResponseShape("chatcmpl", "chat.completion", _message, chat_logprobs)
COMPLETION_RESPONSE = ResponseShape("cmpl", "text_completion", _text, CompletionLogprobs)
