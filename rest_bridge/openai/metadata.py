"""What became of a request beside its answer, and which of it the caller wants to read."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_client import (
    EffectiveSampling,
    Finished,
    FinishReason,
    Generation,
    Report,
    Started,
    Summary,
    Timings,
    Usage,
)
from rest_bridge.middleware import RequestContext
from rest_bridge.openai.requests import GenerationRequest

Json = dict[str, Any]


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
