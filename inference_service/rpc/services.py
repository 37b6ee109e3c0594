"""The services of the protocol: GenerateService, ModelService and UsageService."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import replace
from functools import partial
from typing import cast

import grpc
from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import model_service_pb2 as model_pb
from lodestream.inference.v1 import usage_service_pb2 as usage_pb

from inference_service.errors import InvalidRequest, PermissionDenied, ReceiptNotFound
from inference_service.output.events import Event, Timings
from inference_service.request import generate
from inference_service.request.options import TokenLimits
from inference_service.request.prompt import prompt_fields
from inference_service.rpc import encode
from inference_service.rpc.call import Context, RpcCall, RunningCalls
from inference_service.rpc.event_stream import event_writer
from inference_service.rpc.quotas import QuotaControl
from inference_service.rpc.tracing import trace_request, trace_stages
from inference_service.scheduling.admission import Deadline
from inference_service.scheduling.loaded_engine import EngineSlot, LoadedEngine
from inference_service.scheduling.planner import Planner, effort_of
from inference_service.scheduling.runner import Generation, GenerationRequest, Progress
from inference_service.scheduling.served_model import Effort, ServedModel
from lodestream_common.keys import ANONYMOUS, Level
from lodestream_common.pacing import Pacer
from lodestream_common.receipts import Receipt

MAX_ANSWER_BYTES = 1 << 30
"""Most bytes of an answer in one message. The limit of protobuf is twice as much."""
OWNER = "lodestream"
"""The `owned_by` of every model."""

_LOGPROB_BYTES = 32
"""Bytes of a log probability in a message, without the text of its token."""
_TOKEN_BYTES = 8
"""Bytes of a token in a message, without its text."""
_REPLACEMENT_BYTES = 3
"""A byte that is no valid text is sent as U+FFFD, which takes three bytes."""


class GenerateServicer:
    """Answers generation requests."""

    def __init__(
        self,
        slot: EngineSlot,
        pacer: Pacer,
        quotas: QuotaControl,
        parse: Callable[
            [generate_pb.GenerateRequest, TokenLimits], generate.ParsedRequest
        ] = generate.parse_generate,
    ) -> None:
        """Args: parse: reads a request."""
        self._slot = slot
        self._pacer = pacer
        self._quotas = quotas
        self._parse = parse

    def handlers(self, calls: RunningCalls) -> grpc.GenericRpcHandler:
        """The methods, for the server."""
        kind, level = generate_pb.GenerateRequest, Level.READ_WRITE
        return grpc.method_handlers_generic_handler(
            generate_pb.DESCRIPTOR.services_by_name["GenerateService"].full_name,
            {
                "Generate": calls.handler("Generate", kind, level, self._generate),
                "GenerateStream": calls.handler("GenerateStream", kind, level, self._generate_stream),
            },
        )

    async def _generate(
        self, call: RpcCall, message: generate_pb.GenerateRequest
    ) -> generate_pb.GenerateResponse:
        fold = encode.ResponseFold()
        await self.run(call, message, fold.take, in_one_message=True)
        return fold.response()

    async def _generate_stream(
        self, call: RpcCall, message: generate_pb.GenerateRequest
    ) -> generate_pb.GenerateStreamResponse:
        writer = event_writer(call)
        try:
            await self.run(call, message, writer.take)
        except Exception:
            # The caller learns that the generation had started.
            await writer.flush()
            raise
        finally:
            writer.stop()
        return writer.last_message()

    async def run(
        self,
        call: RpcCall,
        message: generate_pb.GenerateRequest,
        take: Callable[[Sequence[Event]], Awaitable[None]],
        *,
        in_one_message: bool = False,
    ) -> None:
        """Run a generation: admit and plan the request, and hand over what it makes.

        Args:
            call: its RPC.
            message: the request.
            take: called with each batch of events.
            in_one_message: whether the answer will be one message, which has a largest size.

        """
        call.model = message.model
        progress = Progress()
        interval = partial(self._pacer.interval, call.max_interval())
        loaded = self._slot.loaded
        # Before any refusal, which has the model in its log line, metrics and receipt then.
        call.facts |= _model_fact(loaded.model, message.model)
        if call.span is not None:
            trace_request(call.span, message, loaded.model.names)
        async with await self._count_running(call, message, loaded):
            request = await self._read(call, message, loaded)
            if in_one_message:
                _check_answer_size(request, loaded.model.tokenizer.longest_token)
            call.facts |= {"prompt_tokens": request.prompt_tokens}
            async with loaded.admission.reserve(
                call.tenant, request.permits, request.deadline, call.priority
            ) as permit:
                # After the permits: a request that the queue refuses costs the key no tokens.
                call.quotas |= await self._quotas.reserve_tokens(
                    call.admitted, request.prompt_tokens, only_check=not request.choices
                )
                await call.send_head()
                generation = Generation(loaded.backend, permit, request, progress, interval)
                try:
                    async with aclosing(generation.batches()) as batches:
                        async for batch in batches:
                            await take(batch)
                finally:
                    self._record(call, request, generation, progress)

    async def _count_running(
        self, call: RpcCall, message: generate_pb.GenerateRequest, loaded: LoadedEngine
    ) -> AbstractAsyncContextManager[None]:
        """Check that the request may wait, and count it among the generations that the key runs at once.

        A request that only validates is not counted.

        Raises:
            NotReady, QueueFull, RateLimited: the service, its queue or the key takes no more now.

        """
        loaded.admission.check_open()
        if message.validate_only:
            return nullcontext()
        await loaded.admission.check_space(call.tenant, call.priority)
        return self._quotas.running(call.admitted)

    def _record(
        self, call: RpcCall, request: GenerationRequest, generation: Generation, progress: Progress
    ) -> None:
        """Record a generation that ended: log line, metrics and receipt, the key's tokens, the span."""
        call.facts |= _facts(generation, len(request.choices), progress.timings)
        self._quotas.charge_tokens(call.admitted, generation.usage.completion_tokens)
        if call.span is not None and request.choices:
            trace_stages(call.span, progress)

    async def _read(
        self, call: RpcCall, message: generate_pb.GenerateRequest, loaded: LoadedEngine
    ) -> GenerationRequest:
        """Validate and plan a request, in a worker thread where that takes long."""
        model = loaded.model
        model.check_length(message, message.stopping.max_tokens)
        parsed = await model.work(call.tenant, call.size, self._parse, message, model.limits)
        _check_may_use(call, model, parsed.model)
        call.facts |= {"user": parsed.user} if parsed.user else {}
        planner = Planner(
            model=model,
            policy=loaded.policy,
            check_grammar=loaded.backend.check_grammar,
            parsed=parsed,
            request_id=call.request_id,
            key_name=_key_name(call),
            deadline=_deadline(call.context),
        )
        request = await model.work(call.tenant, call.size, planner.plan, effort=effort_of(parsed))
        if not parsed.validate_only:
            return request
        estimate = await loaded.admission.estimate(call.tenant, call.priority)
        return replace(request, report=replace(request.report, queue_estimate=estimate))


class ModelServicer:
    """Answers questions about the served model."""

    def __init__(self, slot: EngineSlot) -> None:
        self._slot = slot

    def handlers(self, calls: RunningCalls) -> grpc.GenericRpcHandler:
        """The methods, for the server."""
        level = Level.READ_ONLY
        return grpc.method_handlers_generic_handler(
            model_pb.DESCRIPTOR.services_by_name["ModelService"].full_name,
            {
                "ListModels": calls.handler(
                    "ListModels", model_pb.ListModelsRequest, level, self._list_models
                ),
                "GetModel": calls.handler("GetModel", model_pb.GetModelRequest, level, self._get_model),
                "CountTokens": calls.handler(
                    "CountTokens", model_pb.CountTokensRequest, level, self._count_tokens
                ),
            },
        )

    async def _list_models(
        self, call: RpcCall, message: model_pb.ListModelsRequest
    ) -> model_pb.ListModelsResponse:
        model = self._slot.loaded.model
        names = [name for name in model.names if _may_use(call, model, name)]
        return model_pb.ListModelsResponse(models=[_describe(model, name) for name in names])

    async def _get_model(self, call: RpcCall, message: model_pb.GetModelRequest) -> model_pb.GetModelResponse:
        call.model = message.model
        name = generate.parse_model_name(message)
        model = self._slot.loaded.model
        model.check_name(name)
        _check_may_use(call, model, name)
        return model_pb.GetModelResponse(model=_describe(model, name))

    async def _count_tokens(
        self, call: RpcCall, message: model_pb.CountTokensRequest
    ) -> model_pb.CountTokensResponse:
        call.model = message.model
        model = self._slot.loaded.model
        model.check_length(message)
        _check_may_use(call, model, message.model)
        effort = Effort.LONG if message.chat.tools else Effort.BY_SIZE
        return await model.work(call.tenant, call.size, _count, message, model, effort=effort)


class UsageServicer:
    """Answers questions about receipts.

    Args:
        find: reads the newest receipt of a request id and a key id; None: there is none.

    """

    def __init__(self, find: Callable[[str, str], Awaitable[Receipt | None]]) -> None:
        self._find = find

    def handlers(self, calls: RunningCalls) -> grpc.GenericRpcHandler:
        """The methods, for the server."""
        kind, level = usage_pb.GetUsageRequest, Level.READ_ONLY
        return grpc.method_handlers_generic_handler(
            usage_pb.DESCRIPTOR.services_by_name["UsageService"].full_name,
            {"GetUsage": calls.handler("GetUsage", kind, level, self._get_usage)},
        )

    async def _get_usage(self, call: RpcCall, message: usage_pb.GetUsageRequest) -> usage_pb.GetUsageResponse:
        if not message.request_id:
            raise InvalidRequest.of("request_id", "is required.", "missing_required_parameter")
        key_id = ANONYMOUS if call.caller is None else call.caller.key_id
        receipt = await self._find(message.request_id, key_id)
        if receipt is None:
            raise ReceiptNotFound
        return usage_pb.GetUsageResponse(receipt=encode.usage_receipt(receipt))


def _may_use(call: RpcCall, model: ServedModel, name: str) -> bool:
    """Whether the caller's key allows a served name: the name itself is listed, or the id behind it."""
    return call.caller is None or call.caller.may_use(name, model.id)


def _check_may_use(call: RpcCall, model: ServedModel, name: str) -> None:
    """Refuse a served model that the caller's key does not allow.

    Raises:
        PermissionDenied: the key is for other models; the error lists them.

    """
    if name in model.names and call.caller is not None and not _may_use(call, model, name):
        raise PermissionDenied(f"The key may not use this model, only: {', '.join(call.caller.models)}.")


def _model_fact(model: ServedModel, name: str) -> dict[str, str]:
    """The id of the served model, for log line, metrics and receipt.

    A name that is not served is the caller's free text and must not become a label of a metric.
    """
    return {"model": model.id} if not name or name in model.names else {}


def _describe(model: ServedModel, name: str) -> model_pb.Model:
    return model_pb.Model(
        id=name,
        root=model.id,
        aliases=[other for other in model.names if other != name],
        created=model.created,
        owned_by=OWNER,
        context_length=model.engine.context_length,
        vocabulary_size=model.engine.vocabulary_size,
        backend=model.engine.name,
        max_concurrency=model.engine.max_concurrency,
        default_max_tokens=model.limits.default,
        max_tokens_limit=model.limits.most,
    )


def _count(message: model_pb.CountTokensRequest, model: ServedModel) -> model_pb.CountTokensResponse:
    name, prompt, ignored = generate.parse_count(message)
    model.check_name(name)
    (field,) = prompt_fields(prompt)
    ids = model.encode(prompt, field)
    return model_pb.CountTokensResponse(
        token_ids=ids,
        token_count=len(ids),
        ignored_parameters=(*ignored, *model.plain_control_tokens(prompt)),
    )


def _check_answer_size(request: GenerationRequest, longest_token: int) -> None:
    """Refuse, before anything is computed, a request whose answer may be too large for one message.

    Args:
        request: what to generate.
        longest_token: bytes of the longest token of the vocabulary.

    Raises:
        InvalidRequest: the answer may be too large; the error says how large.

    """
    text = _REPLACEMENT_BYTES * longest_token
    most = 0
    for choice in request.choices:
        engine = choice.engine
        logprobs = 0 if engine.logprobs is None else engine.logprobs + 1
        most += engine.max_tokens * (text + _TOKEN_BYTES + logprobs * (2 * text + _LOGPROB_BYTES))
    if most > MAX_ANSWER_BYTES:
        raise InvalidRequest.of(
            "stopping.max_tokens",
            f"lets the answer have up to {most} bytes; in one message it may have {MAX_ANSWER_BYTES}. "
            "Ask for a stream.",
        )


def _key_name(call: RpcCall) -> str:
    return call.caller.key_name if call.caller else ANONYMOUS


def _deadline(context: Context) -> Deadline | None:
    seconds = cast("float | None", context.time_remaining())
    return None if seconds is None else Deadline.after(seconds)


def _facts(generation: Generation, choices: int, timings: Timings) -> dict[str, object]:
    """The facts of a generation, for the log line."""
    usage = generation.usage
    return {
        "choices": choices,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "finish": ",".join(cause.value for cause in generation.causes) or None,
        "filter_rules": sorted(generation.filter_rules) or None,
        "queue_ms": round(timings.queue_ms, 1),
        "ttft_ms": round(timings.time_to_first_token_ms, 1),
        "prefill_ms": round(timings.prefill_ms, 1),
        "decode_ms": round(timings.decode_ms, 1),
    }
