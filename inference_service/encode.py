"""Events to protobuf. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb

from inference_service.generation import events

_REASONS = {
    events.FinishReason.STOP: pb.FINISH_REASON_STOP,
    events.FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_CAUSES = {
    events.StopCause.END_OF_SEQUENCE: pb.STOP_CAUSE_END_OF_SEQUENCE,
    events.StopCause.STOP_SEQUENCE: pb.STOP_CAUSE_STOP_SEQUENCE,
    events.StopCause.STOP_TOKEN: pb.STOP_CAUSE_STOP_TOKEN,
    events.StopCause.MAX_TOKENS: pb.STOP_CAUSE_MAX_TOKENS,
    events.StopCause.DEADLINE: pb.STOP_CAUSE_DEADLINE,
}


def stream_response(event: events.Event) -> generate_pb.GenerateStreamResponse:
    """One event as one message of the stream."""
    if isinstance(event, events.Delta):
        return generate_pb.GenerateStreamResponse(delta=_delta(event))
    if isinstance(event, events.Started):
        return generate_pb.GenerateStreamResponse(started=_started(event))
    if isinstance(event, events.Finished):
        return generate_pb.GenerateStreamResponse(finished=_finished(event))
    return generate_pb.GenerateStreamResponse(summary=_summary(event))


class ResponseFold:
    """Folds the events of a stream into the whole answer."""

    def __init__(self) -> None:
        self._response = generate_pb.GenerateResponse()
        self._texts: dict[int, list[str]] = {}

    def add(self, event: events.Event) -> None:
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

    def response(self) -> generate_pb.GenerateResponse:
        self._response.choices.sort(key=lambda choice: choice.index)
        for choice in self._response.choices:
            choice.text = "".join(self._texts.get(choice.index, ()))
        return self._response

    def _add_delta(self, event: events.Delta) -> None:
        choice = self._choice(event.index)
        self._texts.setdefault(event.index, []).append(event.text)
        choice.token_ids.extend(event.token_ids)
        choice.token_count += event.token_count

    def _choice(self, index: int) -> generate_pb.Choice:
        choices: Iterable[generate_pb.Choice] = self._response.choices
        found = next((c for c in choices if c.index == index), None)
        return self._response.choices.add(index=index) if found is None else found


def _started(event: events.Started) -> pb.Started:
    return pb.Started(
        request_id=event.request_id,
        model=event.model,
        created=event.created,
        prompt_tokens=event.prompt_tokens,
    )


def _delta(event: events.Delta) -> pb.Delta:
    return pb.Delta(
        choice_index=event.index,
        text=event.text,
        token_ids=event.token_ids,
        token_count=event.token_count,
    )


def _finished(event: events.Finished) -> pb.Finished:
    return pb.Finished(
        choice_index=event.index,
        reason=_REASONS[event.cause.reason],
        cause=_CAUSES[event.cause],
        stop_sequence=event.stop_sequence,
        stop_token_id=event.stop_token_id,
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
    )
