"""Converts the events of a generation to the messages of the protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1 import usage_service_pb2 as usage_pb

from inference_service.output import events
from inference_service.output.events import ScoredToken
from inference_service.prompt.conversation import ToolCallDelta
from lodestream_common.receipts import Receipt

_REASONS = {
    events.FinishReason.STOP: pb.FINISH_REASON_STOP,
    events.FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    events.FinishReason.CONTENT_FILTER: pb.FINISH_REASON_CONTENT_FILTER,
    events.FinishReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
}
_CAUSES = {
    events.StopCause.END_OF_SEQUENCE: pb.STOP_CAUSE_END_OF_SEQUENCE,
    events.StopCause.STOP_SEQUENCE: pb.STOP_CAUSE_STOP_SEQUENCE,
    events.StopCause.STOP_TOKEN: pb.STOP_CAUSE_STOP_TOKEN,
    events.StopCause.MAX_TOKENS: pb.STOP_CAUSE_MAX_TOKENS,
    events.StopCause.DEADLINE: pb.STOP_CAUSE_DEADLINE,
    events.StopCause.CONTENT_FILTER: pb.STOP_CAUSE_CONTENT_FILTER,
    events.StopCause.TOOL_CALLS: pb.STOP_CAUSE_TOOL_CALLS,
}


def stream_response(event: events.Event) -> generate_pb.GenerateStreamResponse:
    """Convert one event to one message of the stream."""
    if isinstance(event, events.Delta):
        return generate_pb.GenerateStreamResponse(delta=_delta(event))
    if isinstance(event, events.Started):
        return generate_pb.GenerateStreamResponse(started=_started(event))
    if isinstance(event, events.Finished):
        return generate_pb.GenerateStreamResponse(finished=_finished(event))
    return generate_pb.GenerateStreamResponse(summary=_summary(event))


def joined_response(batch: Sequence[events.Event]) -> generate_pb.GenerateStreamResponse:
    """Convert events, one or more, to one message of the stream."""
    message = stream_response(batch[0])
    message.further.extend(stream_response(event) for event in batch[1:])
    return message


class ResponseFold:
    """Collects the events of a generation into one answer."""

    def __init__(self) -> None:
        self._response = generate_pb.GenerateResponse()
        self._texts: dict[int, list[str]] = {}

    async def take(self, batch: Iterable[events.Event]) -> None:
        """Take in the next events."""
        for event in batch:
            self.add(event)

    def add(self, event: events.Event) -> None:
        """Take in the next event."""
        if isinstance(event, events.Delta):
            self._add_delta(event)
        elif isinstance(event, events.Started):
            self._response.request_id = event.request_id
            self._response.model = event.model
            self._response.created = event.created
        elif isinstance(event, events.Finished):
            self._choice(event.index).finished.CopyFrom(_finished(event))
        else:
            summary = _summary(event)
            self._response.usage.CopyFrom(summary.usage)
            self._response.timings.CopyFrom(summary.timings)
            self._response.report.CopyFrom(summary.report)

    def response(self) -> generate_pb.GenerateResponse:
        """The answer, once all events are in."""
        self._response.choices.sort(key=lambda choice: choice.index)
        for choice in self._response.choices:
            choice.text = "".join(self._texts.get(choice.index, ()))
        return self._response

    def _add_delta(self, event: events.Delta) -> None:
        choice = self._choice(event.index)
        self._texts.setdefault(event.index, []).append(event.text)
        choice.token_ids.extend(event.token_ids)
        choice.token_count += event.token_count
        choice.logprobs.extend(_logprob(token) for token in event.logprobs)
        for delta in event.tool_calls:
            _add_tool_call(choice, delta)

    def _choice(self, index: int) -> generate_pb.Choice:
        choices: Iterable[generate_pb.Choice] = self._response.choices
        found = next((c for c in choices if c.index == index), None)
        return self._response.choices.add(index=index) if found is None else found


def _add_tool_call(choice: generate_pb.Choice, delta: ToolCallDelta) -> None:
    if delta.id is not None:
        choice.tool_calls.add(id=delta.id, name=delta.name or "")
    choice.tool_calls[delta.index].arguments += delta.arguments


def _started(event: events.Started) -> pb.Started:
    return pb.Started(
        request_id=event.request_id,
        model=event.model,
        created=event.created,
        prompt_tokens=event.prompt_tokens,
        ignored_parameters=event.ignored,
    )


def _delta(event: events.Delta) -> pb.Delta:
    return pb.Delta(
        choice_index=event.index,
        text=event.text,
        token_ids=event.token_ids,
        token_count=event.token_count,
        logprobs=[_logprob(token) for token in event.logprobs] if event.logprobs else None,
        tool_calls=[_tool_call(delta) for delta in event.tool_calls] if event.tool_calls else None,
    )


def _logprob(token: ScoredToken) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token_id=token.token_id,
        token=token.text,
        bytes=token.raw,
        logprob=token.logprob,
        top=[_logprob(other) for other in token.top],
    )


def _tool_call(delta: ToolCallDelta) -> pb.ToolCallDelta:
    return pb.ToolCallDelta(
        index=delta.index, id=delta.id or "", name=delta.name or "", arguments=delta.arguments
    )


def _finished(event: events.Finished) -> pb.Finished:
    return pb.Finished(
        choice_index=event.index,
        reason=_REASONS[event.reason],
        cause=_CAUSES[event.cause],
        stop_sequence=event.stop_sequence,
        stop_token_id=event.stop_token_id,
        filter_rule=event.filter_rule,
    )


def _summary(event: events.Summary) -> pb.Summary:
    return pb.Summary(
        usage=pb.Usage(
            prompt_tokens=event.usage.prompt_tokens,
            completion_tokens=event.usage.completion_tokens,
            cached_tokens=event.usage.cached_tokens,
        ),
        timings=pb.Timings(
            queue_ms=event.timings.queue_ms,
            prefill_ms=event.timings.prefill_ms,
            decode_ms=event.timings.decode_ms,
            time_to_first_token_ms=event.timings.time_to_first_token_ms,
        ),
        report=_report(event.report),
    )


def _report(report: events.Report) -> pb.Report:
    sampling = report.sampling
    return pb.Report(
        ignored_parameters=report.ignored,
        sampling=pb.SamplingOptions(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            repetition_penalty=sampling.repetition_penalty,
            seed=_signed(sampling.seed),
            logit_bias=report.logit_bias,
        ),
        max_tokens=report.max_tokens,
        batch_size=report.batch_size,
        queue_estimate_ms=report.queue_estimate * 1e3,
    )


def usage_receipt(receipt: Receipt) -> usage_pb.UsageReceipt:
    """Convert a receipt. Stop causes that a newer service wrote are left out."""
    causes = {cause.value: number for cause, number in _CAUSES.items()}
    return usage_pb.UsageReceipt(
        request_id=receipt.request_id,
        key_id=receipt.key_id or "",
        key_name=receipt.key_name or "",
        model=receipt.model,
        method=receipt.method,
        arrived=receipt.arrived,
        outcome=receipt.outcome,
        causes=[causes[name] for name in receipt.finish.split(",") if name in causes],
        choices=receipt.choices,
        prompt_tokens=receipt.prompt_tokens,
        cached_tokens=receipt.cached_tokens,
        completion_tokens=receipt.completion_tokens,
        queue_ms=receipt.queue_ms,
        time_to_first_token_ms=receipt.ttft_ms,
        prefill_ms=receipt.prefill_ms,
        decode_ms=receipt.decode_ms,
        total_ms=receipt.total_ms,
    )


def _signed(seed: int) -> int:
    """An unsigned 64-bit seed as the signed number of the protocol, so that a request can repeat it."""
    return seed if seed < 2**63 else seed - 2**64
