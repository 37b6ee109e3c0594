"""Protobuf → the client's own nouns. Pure; knows no gRPC."""

from __future__ import annotations

from lodestream.inference.v1 import generate_service_pb2, generation_pb2, model_service_pb2

from inference_client.conversation import ToolCall, ToolCallDelta
from inference_client.errors import ProtocolError
from inference_client.events import (
    Delta,
    EffectiveSampling,
    Event,
    Finished,
    FinishReason,
    Report,
    Started,
    StopCause,
    Summary,
    Timings,
    TokenLogprob,
    Usage,
)
from inference_client.generation import Choice, Generation
from inference_client.models import Model, TokenCount, Validation

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
    generation_pb2.STOP_CAUSE_CONTENT_FILTER: StopCause.CONTENT_FILTER,
    generation_pb2.STOP_CAUSE_TOOL_CALLS: StopCause.TOOL_CALLS,
}


def decode_event(message: generate_service_pb2.GenerateStreamResponse) -> Event | None:
    """One event; None for a kind that is newer than this client, which is to be skipped.

    Raises:
        ProtocolError: the event lacks what it must have.

    """
    kind = message.WhichOneof("event")
    if kind == "delta":  # first: there is one of these for every few tokens
        return _delta(message.delta)
    if kind == "finished":
        return decode_finished(message.finished)
    if kind == "started":
        started = message.started
        return Started(
            started.request_id,
            started.model,
            started.created,
            started.prompt_tokens,
            tuple(started.ignored_parameters),
        )
    if kind == "summary":
        return _summary(message.summary)
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
        filter_rule=message.filter_rule if message.HasField("filter_rule") else None,
    )


def decode_generation(message: generate_service_pb2.GenerateResponse, choices: int) -> Generation:
    """The whole answer to a request for so many choices.

    Raises:
        ProtocolError: it has more or fewer, or one that did not end.

    """
    indexes = [choice.index for choice in message.choices]
    if indexes != list(range(len(indexes))) or len(indexes) != choices:
        raise ProtocolError(f"The answer has the choices {indexes}; the request wants {choices}.")
    return Generation(
        request_id=message.request_id,
        model=message.model,
        created=message.created,
        choices=tuple(_choice(choice) for choice in message.choices),
        usage=_usage(message.usage),
        timings=_timings(message.timings),
        report=_report(message.report),
    )


def decode_validation(message: generate_service_pb2.GenerateResponse) -> Validation:
    """What was said of a request that was only checked.

    Raises:
        ProtocolError: it was not only checked.

    """
    if message.choices:
        raise ProtocolError("The service generated: it is too old to validate only.")
    return Validation(message.request_id, message.model, message.usage.prompt_tokens, _report(message.report))


def decode_model(message: model_service_pb2.GetModelResponse) -> Model:
    """A served model."""
    return _model(message.model)


def decode_models(message: model_service_pb2.ListModelsResponse) -> tuple[Model, ...]:
    """Every name of every served model."""
    return tuple(_model(model) for model in message.models)


def decode_token_count(message: model_service_pb2.CountTokensResponse) -> TokenCount:
    """The length of a prompt."""
    return TokenCount(
        token_count=message.token_count,
        token_ids=tuple(message.token_ids),
        ignored_parameters=tuple(message.ignored_parameters),
    )


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
        default_max_tokens=message.default_max_tokens,
        max_tokens_limit=message.max_tokens_limit,
        root=message.root,
    )


def _choice(message: generate_service_pb2.Choice) -> Choice:
    return Choice(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        token_count=message.token_count,
        finished=decode_finished(message.finished),
        logprobs=tuple(_logprob(entry) for entry in message.logprobs),
        tool_calls=tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls),
    )


def _delta(message: generation_pb2.Delta) -> Delta:
    # A copy in one piece, then a tuple of it: twice as fast as one id at a time.
    token_ids = tuple(message.token_ids[:])
    logprobs, tool_calls = message.logprobs, message.tool_calls
    if not logprobs and not tool_calls:
        return Delta(message.choice_index, message.text, token_ids, message.token_count)
    return Delta(
        message.choice_index,
        message.text,
        token_ids,
        message.token_count,
        tuple(_logprob(entry) for entry in logprobs),
        tuple(_tool_call_delta(piece) for piece in tool_calls),
    )


def _logprob(message: generation_pb2.TokenLogprob) -> TokenLogprob:
    top = tuple(TokenLogprob(one.token_id, one.token, one.bytes, one.logprob) for one in message.top)
    return TokenLogprob(message.token_id, message.token, message.bytes, message.logprob, top)


def _tool_call_delta(message: generation_pb2.ToolCallDelta) -> ToolCallDelta:
    return ToolCallDelta(message.index, message.id or None, message.name or None, message.arguments)


def _summary(message: generation_pb2.Summary) -> Summary:
    return Summary(_usage(message.usage), _timings(message.timings), _report(message.report))


def _usage(message: generation_pb2.Usage) -> Usage:
    cached = message.cached_tokens if message.HasField("cached_tokens") else None
    return Usage(message.prompt_tokens, message.completion_tokens, cached)


def _timings(message: generation_pb2.Timings) -> Timings:
    return Timings(message.queue_ms, message.prefill_ms, message.decode_ms, message.time_to_first_token_ms)


def _report(message: generation_pb2.Report) -> Report:
    sampling = message.sampling
    return Report(
        ignored_parameters=tuple(message.ignored_parameters),
        sampling=EffectiveSampling(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            repetition_penalty=sampling.repetition_penalty,
            seed=sampling.seed,
            logit_bias=dict(sampling.logit_bias),
        ),
        max_tokens=message.max_tokens,
        batch_size=message.batch_size,
        queue_estimate_ms=message.queue_estimate_ms,
    )
