"""Writes whole responses, and the parts that they share with chunks."""

from __future__ import annotations

import codecs
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
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
from rest_bridge.middleware import RequestContext
from rest_bridge.openai.requests import GenerationRequest

Json = dict[str, Any]
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


def new_id(prefix: str) -> str:
    """A fresh id of a reply: `chatcmpl-…`, `cmpl-…`."""
    return f"{prefix}-{uuid.uuid4().hex}"


def finish_reason(reason: FinishReason) -> str:
    """Why a choice ended, as REST spells it. A reason newer than this bridge ends it all the same."""
    return "stop" if reason is FinishReason.UNKNOWN else reason.value


def usage(counts: Usage) -> Json:
    """Token counts. Details are absent where the engine does not tell what its cache held."""
    known = counts.cached_tokens is not None
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
        **({"prompt_tokens_details": {"cached_tokens": counts.cached_tokens}} if known else {}),
    }


Reported = Generation | Summary
"""Both have timings and a report."""


@dataclass(frozen=True, slots=True)
class ResponseMetadata:
    """What is told of one request."""

    exchange: RequestContext
    region: str
    ignored: Sequence[str]
    """Names of parameters without effect, as far as the bridge knows them itself."""

    def ignored_by_all(self, told: Started | Report) -> list[str]:
        """What is without effect here, and what the service says it is, both as the caller calls it."""
        named = map(self.exchange.names.of, told.ignored_parameters)
        return list(dict.fromkeys((*self.ignored, *named)))

    def metadata(self, told: Reported, endings: Iterable[Finished]) -> Json:
        """The `pg_metadata` of a whole reply, or of the last chunk of a stream."""
        timings, report = told.timings, told.report
        inference, bridge = timings.prefill_ms + timings.decode_ms, self._bridge_ms(timings)
        return {
            "region": self.region,
            "latency_ms": round(timings.queue_ms + inference + bridge),
            "queue_time_ms": round(timings.queue_ms),
            "inference_time_ms": round(inference),
            # The model is loaded before requests are taken.
            "model_load_time_ms": 0,
            "timings": {
                "queue_ms": _ms(timings.queue_ms),
                "prefill_ms": _ms(timings.prefill_ms),
                "decode_ms": _ms(timings.decode_ms),
                "bridge_ms": _ms(bridge),
                "time_to_first_token_ms": _ms(timings.time_to_first_token_ms),
            },
            "batch_size": report.batch_size,
            "parameters": parameters(report),
            "ignored_parameters": self.ignored_by_all(report),
            "choices": [_ending(ending) for ending in endings],
        }

    def headers(self, generation: Generation) -> dict[str, str]:
        """The same in short, for the headers of a whole reply."""
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
        """All but what the service measured: the bridge, the way between them, and waiting for the reader."""
        served = timings.queue_ms + timings.prefill_ms + timings.decode_ms
        return max(0.0, self.exchange.elapsed_ms - served)


def parameters(report: Report) -> Json:
    """The parameters in effect, by the names that requests use."""
    return {"max_tokens": report.max_tokens, **_sampling(report.sampling)}


def _sampling(sampling: EffectiveSampling) -> Json:
    biases = {str(token): bias for token, bias in sorted(sampling.logit_bias.items())}
    return {**asdict(sampling), "logit_bias": biases}


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


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """What an answer may hold beside text."""

    token_ids: bool = False
    logprobs: bool = False
    tool_calls: bool = False
    usage: bool = False
    """Of streams: one more chunk that says the token counts."""

    @property
    def only_text(self) -> bool:
        """Whether deltas hold nothing else."""
        return not (self.token_ids or self.logprobs or self.tool_calls)


def reply_options(body: GenerationRequest, message: GenerateRequest) -> ReplyOptions:
    """What a request asks for."""
    options = body.stream_options
    return ReplyOptions(
        token_ids=bool(body.return_token_ids),
        logprobs=message.output.logprobs,
        tool_calls=bool(message.chat.tools),
        usage=options is not None and bool(options.include_usage),
    )


def json_response(content: Json, headers: dict[str, str] | None = None) -> Response:
    """A reply in JSON."""
    return Response(orjson.dumps(content), headers=headers, media_type="application/json")
