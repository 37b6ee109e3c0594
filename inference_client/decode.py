"""Protobuf → the client's own nouns. Pure; knows no gRPC."""

from __future__ import annotations

from lodestream.inference.v1 import generate_service_pb2, generation_pb2, model_service_pb2

from inference_client.errors import ProtocolError
from inference_client.events import (
    Delta,
    Event,
    Finished,
    FinishReason,
    Started,
    StopCause,
    Summary,
    Timings,
    Usage,
)
from inference_client.generation import Choice, Generation
from inference_client.models import Model, TokenCount

_REASONS = {
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_CONTENT_FILTER: FinishReason.CONTENT_FILTER,
    generation_pb2.FINISH_REASON_TOOL_CALLS: FinishReason.TOOL_CALLS,
}
_CAUSES = {
    generation_pb2.STOP_CAUSE_END_OF_SEQUENCE: StopCause.END_OF_SEQUENCE,
    generation_pb2.STOP_CAUSE_STOP_SEQUENCE: StopCause.STOP_SEQUENCE,
    generation_pb2.STOP_CAUSE_STOP_TOKEN: StopCause.STOP_TOKEN,
    generation_pb2.STOP_CAUSE_MAX_TOKENS: StopCause.MAX_TOKENS,
    generation_pb2.STOP_CAUSE_DEADLINE: StopCause.DEADLINE,
}


def decode_event(message: generate_service_pb2.GenerateStreamResponse) -> Event | None:
    """One event; None for a kind that is newer than this client, which is to be skipped.

    Raises:
        ProtocolError: the event lacks what it must have.

    """
    kind = message.WhichOneof("event")
    if kind == "delta":  # first: there is one of these for every few tokens
        delta = message.delta
        return Delta(delta.choice_index, delta.text, tuple(delta.token_ids), delta.token_count)
    if kind == "finished":
        return decode_finished(message.finished)
    if kind == "started":
        started = message.started
        return Started(started.request_id, started.model, started.created, started.prompt_tokens)
    if kind == "summary":
        return Summary(_usage(message.summary.usage), _timings(message.summary.timings))
    return None


def decode_finished(message: generation_pb2.Finished) -> Finished:
    """How a choice ended.

    Raises:
        ProtocolError: no reason is given.

    """
    if message.reason == generation_pb2.FINISH_REASON_UNSPECIFIED:
        raise ProtocolError(f"Choice {message.choice_index} ended without a reason.")
    return Finished(
        choice_index=message.choice_index,
        reason=_REASONS.get(message.reason, FinishReason.UNKNOWN),
        cause=_CAUSES.get(message.cause, StopCause.UNKNOWN),
        stop_sequence=message.stop_sequence if message.HasField("stop_sequence") else None,
        stop_token_id=message.stop_token_id if message.HasField("stop_token_id") else None,
    )


def decode_generation(message: generate_service_pb2.GenerateResponse) -> Generation:
    """The whole answer.

    Raises:
        ProtocolError: it has no choice, or one that did not end.

    """
    if not message.choices:
        raise ProtocolError("The answer has no choices.")
    return Generation(
        request_id=message.request_id,
        model=message.model,
        created=message.created,
        choices=tuple(_choice(choice) for choice in message.choices),
        usage=_usage(message.usage),
        timings=_timings(message.timings),
    )


def decode_model(message: model_service_pb2.GetModelResponse) -> Model:
    """A served model."""
    return _model(message.model)


def decode_models(message: model_service_pb2.ListModelsResponse) -> tuple[Model, ...]:
    """Every served model."""
    return tuple(_model(model) for model in message.models)


def decode_token_count(message: model_service_pb2.CountTokensResponse) -> TokenCount:
    """The length of a prompt."""
    return TokenCount(token_count=message.token_count, token_ids=tuple(message.token_ids))


def _model(message: model_service_pb2.Model) -> Model:
    return Model(
        id=message.id,
        aliases=tuple(message.aliases),
        created=message.created,
        owned_by=message.owned_by,
        context_length=message.context_length,
        vocabulary_size=message.vocabulary_size,
        backend=message.backend,
        max_concurrency=message.max_concurrency,
    )


def _choice(message: generate_service_pb2.Choice) -> Choice:
    return Choice(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        token_count=message.token_count,
        finished=decode_finished(message.finished),
    )


def _usage(message: generation_pb2.Usage) -> Usage:
    return Usage(message.prompt_tokens, message.completion_tokens, message.cached_tokens)


def _timings(message: generation_pb2.Timings) -> Timings:
    return Timings(message.queue_ms, message.prefill_ms, message.decode_ms, message.time_to_first_token_ms)
