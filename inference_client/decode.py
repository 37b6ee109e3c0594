"""Messages of the service to values of the client, and the check of their order in a stream."""

from __future__ import annotations

from lodestream.inference.v1 import (
    generate_service_pb2,
    generation_pb2,
    model_service_pb2,
    usage_service_pb2,
)

from inference_client.errors import ProtocolError
from inference_client.events import (
    Choice,
    Delta,
    EffectiveSampling,
    Event,
    Finished,
    FinishReason,
    Generation,
    Report,
    Started,
    StopCause,
    Summary,
    Timings,
    TokenLogprob,
    Usage,
)
from inference_client.models import Model, TokenCount, UsageReceipt, Validation
from inference_client.options import ToolCall, ToolCallDelta

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
    """Decode one event; None: the client does not know this kind yet, and skips it.

    Raises:
        ProtocolError: a required field is missing.

    """
    kind = message.WhichOneof("event")
    if kind == "delta":  # first, as the most frequent kind
        return _delta(message.delta)
    if kind == "finished":
        return _finished(message.finished)
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


def _finished(message: generation_pb2.Finished) -> Finished:
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
    """Decode the whole answer to a request for `choices` choices.

    Raises:
        ProtocolError: it has another number of choices, or one without a finish reason.

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
    """Decode the answer to a request with `validate_only`.

    Raises:
        ProtocolError: the service generated.

    """
    if message.choices:
        raise ProtocolError("The service generated: it is too old to validate only.")
    return Validation(message.request_id, message.model, message.usage.prompt_tokens, _report(message.report))


def decode_model(message: model_service_pb2.GetModelResponse) -> Model:
    """Decode one served model."""
    return _model(message.model)


def decode_models(message: model_service_pb2.ListModelsResponse) -> tuple[Model, ...]:
    """Decode the list of the served models."""
    return tuple(_model(model) for model in message.models)


def decode_token_count(message: model_service_pb2.CountTokensResponse) -> TokenCount:
    """Decode the length of a prompt."""
    return TokenCount(
        token_count=message.token_count,
        token_ids=tuple(message.token_ids),
        ignored_parameters=tuple(message.ignored_parameters),
    )


def decode_usage(message: usage_service_pb2.GetUsageResponse) -> UsageReceipt:
    """Decode a receipt; stop causes that the client does not know yet are left out."""
    receipt = message.receipt

    def optional(name: str) -> float | None:
        return getattr(receipt, name) if receipt.HasField(name) else None  # type: ignore[arg-type]

    return UsageReceipt(
        request_id=receipt.request_id,
        key_id=receipt.key_id,
        key_name=receipt.key_name,
        model=receipt.model,
        method=receipt.method,
        arrived=receipt.arrived,
        outcome=receipt.outcome,
        causes=tuple(_CAUSES[cause] for cause in receipt.causes if cause in _CAUSES),
        choices=receipt.choices,
        prompt_tokens=receipt.prompt_tokens,
        cached_tokens=receipt.cached_tokens if receipt.HasField("cached_tokens") else None,
        completion_tokens=receipt.completion_tokens,
        queue_ms=optional("queue_ms"),
        time_to_first_token_ms=optional("time_to_first_token_ms"),
        prefill_ms=optional("prefill_ms"),
        decode_ms=optional("decode_ms"),
        total_ms=receipt.total_ms,
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
        finished=_finished(message.finished),
        logprobs=tuple(_logprob(entry) for entry in message.logprobs),
        tool_calls=tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls),
    )


def _delta(message: generation_pb2.Delta) -> Delta:
    # The slice copies all ids at once; iterating over the field takes twice as long.
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


def choice_count(request: generate_service_pb2.GenerateRequest) -> int:
    """Count the choices that the answer to a request has."""
    if request.validate_only:
        return 0
    prompts = len(request.batch.prompts) if request.WhichOneof("input") == "batch" else 1
    return prompts * (request.output.n if request.output.HasField("n") else 1)


def cut_short() -> ProtocolError:
    """Make the error of a stream that ends with status OK, but without a summary."""
    return ProtocolError("The stream ended without its summary.")


class StreamProtocolChecker:
    """Checks that the events of one stream are in order: Started, any number of Delta and Finished, Summary.

    Args:
        choices: the number of choices of the request; 0 for a request with `validate_only`.

    """

    __slots__ = ("_calls", "_choices", "_finished", "_started", "_summarised")

    def __init__(self, choices: int) -> None:
        self._choices = choices
        self._started = False
        """Whether the stream has started and has no summary yet."""
        self._summarised = False
        self._finished: set[int] = set()
        self._calls: dict[int, int] = {}
        """Choice index → the number of tool calls that have begun."""

    def restart(self) -> None:
        """Prepare for another attempt, after a stream that had no event but `Started`."""
        self._started = False

    def check(self, event: Event) -> None:
        """Check the next event.

        Raises:
            ProtocolError: the event is not allowed at this position.

        """
        if not self._started:
            self._check_outside(event)
        elif isinstance(event, Delta):
            choice = event.choice_index
            if choice in self._finished or choice >= self._choices:
                raise self._surplus(choice, "went on after it had ended")
            for piece in event.tool_calls:
                self._check_call(choice, piece)
        elif isinstance(event, Finished):
            self._check_finished(event.choice_index)
        elif isinstance(event, Started):
            raise ProtocolError("The stream started twice.")
        else:
            self._check_summary()

    def _check_outside(self, event: Event) -> None:
        if self._summarised:
            raise ProtocolError("The stream went on after its summary.")
        if not isinstance(event, Started):
            raise ProtocolError(f"The stream began with a {type(event).__name__.lower()} event.")
        self._started = True

    def _check_call(self, choice: int, piece: ToolCallDelta) -> None:
        begun = self._calls.get(choice, 0)
        call = f"Tool call {piece.index} of choice {choice}"
        if piece.index > begun:
            raise ProtocolError(f"{call} came before call {begun}.")
        if piece.index < begun:
            if piece.id is not None or piece.name is not None:
                raise ProtocolError(f"{call} began twice.")
            return
        if piece.id is None or piece.name is None:
            raise ProtocolError(f"{call} began without its id or its name.")
        self._calls[choice] = begun + 1

    def _check_finished(self, choice: int) -> None:
        if choice in self._finished or choice >= self._choices:
            raise self._surplus(choice, "ended twice")
        self._finished.add(choice)

    def _check_summary(self) -> None:
        if len(self._finished) != self._choices:
            raise ProtocolError("The summary came before every choice had ended.")
        self._started = False
        self._summarised = True

    def _surplus(self, choice: int, again: str) -> ProtocolError:
        if choice in self._finished:
            return ProtocolError(f"Choice {choice} {again}.")
        return ProtocolError(f"Choice {choice} was not requested: the request wants {self._choices}.")
