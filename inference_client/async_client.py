"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from grpc_health.v1 import health_pb2
from lodestream.inference.v1 import (
    generate_service_pb2,
    model_service_pb2,
    usage_service_pb2,
)
from lodestream.inference.v1.generate_service_pb2 import (
    GenerateRequest,
    GenerateResponse,
    GenerateStreamResponse,
)
from lodestream.inference.v1.model_service_pb2 import (
    CountTokensRequest,
    CountTokensResponse,
    GetModelRequest,
    GetModelResponse,
    ListModelsRequest,
    ListModelsResponse,
)
from lodestream.inference.v1.usage_service_pb2 import GetUsageRequest, GetUsageResponse

from inference_client.async_stream import AsyncStream, is_being_cancelled, only_message, wait_until
from inference_client.call import CallDefaults, CallOptions, ClientCall, Metadata, RetryPolicy
from inference_client.channel import (
    DEFAULT_MAX_MESSAGE_BYTES,
    RETIRED_POLL,
    ClientOptions,
    Pool,
    TlsConfig,
    check_target,
    key_from_environment,
    open_async,
    target_from_environment,
)
from inference_client.decode import (
    StreamProtocolChecker,
    choice_count,
    decode_generation,
    decode_model,
    decode_models,
    decode_token_count,
    decode_usage,
    decode_validation,
)
from inference_client.errors import ClosedError, InferenceError, NotFoundError
from inference_client.events import Generation
from inference_client.health import READY_POLL, Health, ReadyWait, decode_health, health_request
from inference_client.models import Model, TokenCount, UsageReceipt, Validation
from inference_client.options import CountOptions, GenerateOptions
from inference_client.request import build_count_request, build_request, build_validation
from inference_client.status import rate_limits_of

if TYPE_CHECKING:
    from typing import Self, TypeAlias, Unpack

    Method: TypeAlias = aio.UnaryStreamMultiCallable
    """A method of one connection: it starts a call with a message."""

RequestT = TypeVar("RequestT", bound=ProtoMessage)
ResponseT = TypeVar("ResponseT", bound=ProtoMessage)
ResultT = TypeVar("ResultT")


class AsyncClient:
    """Calls one inference service. Make one client and share it: it has a connection to each replica, and
    opens further ones while many calls are open.

    It connects with the first call, and belongs to the event loop of that call. Use it as a context manager,
    or `close` it. Methods raise the errors of `inference_client.errors`, and `ValueError` or `TypeError` for
    arguments that do not fit.

    Args:
        target: `host:port`, `dns:///name:port` (every address of the name is used) or `unix:/path`.
        api_key: the key of calls that bring no key of their own.
        timeout: seconds that a call may take, retries included, unless it sets a timeout itself; None: no
            limit.
        retries: attempts after the first one for calls that fail as UNAVAILABLE; see `RetryPolicy`.
        retry_timeout: seconds after the first attempt during which such a call is tried again without a limit
            of attempts; longer than a restart of the service takes. 0: only `retries` count.
        max_message_bytes: size limit of sent messages, in bytes; answers may be larger.
        tls: TLS settings; None: no encryption, for a loopback or a private network.

    """

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        retries: int = 2,
        retry_timeout: float = 0.0,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        tls: TlsConfig | None = None,
    ) -> None:
        self._target = check_target(target)
        self._defaults = CallDefaults(
            api_key, timeout, RetryPolicy(retries, retry_timeout), max_message_bytes
        )
        self._tls = tls
        self._pool = Pool(lambda: _Stubs(open_async(self._target, max_message_bytes, self._tls)))
        self._retiring: dict[asyncio.Task[None], _Stubs] = {}
        self._closed = asyncio.Event()

    @classmethod
    def from_environment(cls, target: str | None = None, **options: Unpack[ClientOptions]) -> Self:
        """Make a client with the key in LODESTREAM_API_KEY, for the target in LODESTREAM_TARGET.

        Args:
            target: replaces the variable; the default of both is 127.0.0.1:50051.
            options: the other arguments of the class.

        """
        return cls(target or target_from_environment(), api_key=key_from_environment(), **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls that still run fail with `ClosedError`. Safe to call twice."""
        self._closed.set()
        for task in self._retiring:
            task.cancel()
        stubs = (*self._pool.opened, *self._retiring.values())
        await asyncio.gather(*(one.channel.close(None) for one in stubs))

    def use_tls(self, tls: TlsConfig | None) -> None:
        """Use other TLS settings, as renewed certificates, for calls that begin from now on.

        Running calls end on their connections, which are closed after them.
        """
        self._tls = tls
        for stubs in self._pool.retire():
            task = asyncio.create_task(_close_idle(stubs))
            self._retiring[task] = stubs
            task.add_done_callback(lambda ended: self._retiring.pop(ended, None))

    async def generate(
        self,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Generate, and return the whole answer.

        Args:
            timeout: seconds that the call may take, retries included. If it passes after the first token, the
                answer has the text until then, and ends with `StopCause.DEADLINE`.
            request_id: 1 to 128 characters of [A-Za-z0-9._:-], which the logs of the service name.
            options: see `GenerateOptions`.

        """
        return await self.generate_request(build_request(**options), timeout=timeout, request_id=request_id)

    def stream(
        self,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncStream:
        """Generate, and yield the events while they arrive. The arguments are those of `generate`."""
        return self.stream_request(build_request(**options), timeout=timeout, request_id=request_id)

    async def validate(
        self,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Validation:
        """Let the service check and explain a request without generating. The arguments are those of
        `generate`.

        Raises:
            InferenceError: the error that `generate` would raise before the first token.

        """
        return await self.validate_request(build_request(**options), timeout=timeout, request_id=request_id)

    async def generate_request(self, request: GenerateRequest, **options: Unpack[CallOptions]) -> Generation:
        """Like `generate`, for a request message; `api_key` replaces the key of the client."""
        call = self._defaults.call(**options)
        decode = partial(decode_generation, choices=choice_count(request))
        generation = await self._call(lambda stubs: stubs.generate, request, call, decode)
        return replace(generation, rate_limits=call.rate_limits)

    def stream_request(self, request: GenerateRequest, **options: Unpack[CallOptions]) -> AsyncStream:
        """Like `stream`, for a request message; `api_key` replaces the key of the client.

        The timeout starts here. The call begins with the first read, which also raises the first error.
        """
        call = self._defaults.call(**options)
        return self._stream(request, call)

    async def collect_request(self, request: GenerateRequest, **options: Unpack[CallOptions]) -> Generation:
        """Like `generate_request`, but the answer arrives as a stream, so that no message is large.

        A stream that fails as UNAVAILABLE is tried again from the beginning, even after its first output.
        """
        call = self._defaults.call(**options)
        while True:
            try:
                return await self._stream(request, call).collect()
            except InferenceError as error:
                if not isinstance(error.__cause__, grpc.RpcError):
                    raise
                pause = call.pause_after(error.__cause__)
            await wait_until(self._closed, pause)

    def _stream(self, request: GenerateRequest, call: ClientCall) -> AsyncStream:
        def open_rpc() -> aio.UnaryStreamCall[Any, Any]:
            call.check_size(request)
            return self._start(lambda stubs: stubs.generate_stream, request, call, call.stream_metadata())

        checker = StreamProtocolChecker(choice_count(request))
        return AsyncStream(open_rpc, call, checker, self._closed)

    async def validate_request(self, request: GenerateRequest, **options: Unpack[CallOptions]) -> Validation:
        """Like `validate`, for a request message; `api_key` replaces the key of the client."""
        call = self._defaults.call(**options)
        found = await self._call(
            lambda stubs: stubs.generate, build_validation(request), call, decode_validation
        )
        return replace(found, rate_limits=call.rate_limits)

    async def list_models(self, **options: Unpack[CallOptions]) -> tuple[Model, ...]:
        """List the served models, under each of their names."""
        call = self._defaults.call(**options)
        models = await self._call(lambda stubs: stubs.list_models, ListModelsRequest(), call, decode_models)
        return tuple(replace(model, rate_limits=call.rate_limits) for model in models)

    async def get_model(self, model: str, **options: Unpack[CallOptions]) -> Model:
        """Get one model by id or alias; `NotFoundError` has the names of the served models."""
        call = self._defaults.call(**options)
        request = GetModelRequest(model=model)
        found = await self._call(lambda stubs: stubs.get_model, request, call, decode_model)
        return replace(found, rate_limits=call.rate_limits)

    async def get_usage(self, of_request: str, **options: Unpack[CallOptions]) -> UsageReceipt:
        """Get the receipt of a past request of the same key.

        Args:
            of_request: the id of that request; where the key used it more than once, the newest counts.
            options: see `CallOptions`.

        Raises:
            NotFoundError: the key made no such request, or its receipt was not kept.

        """
        call = self._defaults.call(**options)
        request = GetUsageRequest(request_id=of_request)
        found = await self._call(lambda stubs: stubs.get_usage, request, call, decode_usage)
        return replace(found, rate_limits=call.rate_limits)

    async def count_tokens(
        self,
        model: str,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        api_key: str | None = None,
        metadata: Metadata = (),
        **options: Unpack[CountOptions],
    ) -> TokenCount:
        """Count the tokens of a prompt, as `generate` would; `CountOptions` has the keywords."""
        call = self._defaults.call(api_key=api_key, request_id=request_id, timeout=timeout, metadata=metadata)
        request = build_count_request(model, options)
        found = await self._call(lambda stubs: stubs.count_tokens, request, call, decode_token_count)
        return replace(found, rate_limits=call.rate_limits)

    async def health(self, service: str = "", *, timeout: float | None = None) -> Health:
        """Get the state of one gRPC service, without retries; the empty name is the whole server.

        Raises:
            UnavailableError: the service is not reachable.

        """
        call = replace(self._defaults, retry=RetryPolicy(0)).call(timeout=timeout)
        try:
            return await self._call(
                lambda stubs: stubs.check_health, health_request(service), call, decode_health
            )
        except NotFoundError:
            return Health.SERVICE_UNKNOWN

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Return when the service accepts requests.

        Raises:
            DeadlineError: it accepts none within `timeout` seconds.

        """
        wait = ReadyWait(timeout)
        while True:
            try:
                state: Health | InferenceError = await self.health(timeout=wait.next_timeout())
            except InferenceError as error:
                state = error
            if wait.is_over(state):
                return
            await wait_until(self._closed, READY_POLL)

    async def _call(
        self,
        method: Callable[[_Stubs], Method[RequestT, ResponseT]],
        request: RequestT,
        call: ClientCall,
        decode: Callable[[ResponseT], ResultT],
    ) -> ResultT:
        call.check_size(request)
        while True:
            try:
                rpc = self._start(method, request, call, call.metadata())
                message = await only_message(rpc)
                call.rate_limits = rate_limits_of(await rpc.initial_metadata())
                return call.decoded(decode, message)
            except grpc.RpcError as error:
                pause = call.pause_after(error)
            except asyncio.CancelledError:
                # Closing the client cancels its calls, but not the tasks that wait for them.
                if self._closed.is_set() and not is_being_cancelled():
                    raise ClosedError("The client was closed.", request_id=call.request_id) from None
                raise
            await wait_until(self._closed, pause)

    def _start(
        self,
        method: Callable[[_Stubs], Method[RequestT, ResponseT]],
        request: RequestT,
        call: ClientCall,
        metadata: Metadata,
    ) -> aio.UnaryStreamCall[RequestT, ResponseT]:
        """Start a call on the connection with the fewest open calls."""
        if self._closed.is_set():
            raise ClosedError("The client is closed.")
        timeout = call.timeout()
        stubs = self._pool.begin()
        rpc = method(stubs)(request, timeout=timeout, metadata=metadata)
        rpc.add_done_callback(lambda _: self._pool.end(stubs))
        return rpc


async def _close_idle(stubs: _Stubs) -> None:
    while stubs.open_calls:  # noqa: ASYNC110  the end of a call sets no event
        await asyncio.sleep(RETIRED_POLL)
    await stubs.channel.close(None)


class _Stubs:
    """The methods of the service on one connection, each as a stream: on the wire a single answer is the
    same.
    """

    def __init__(self, channel: aio.Channel) -> None:
        self.channel = channel
        self.open_calls = 0
        generate = generate_service_pb2.DESCRIPTOR.services_by_name["GenerateService"]
        models = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
        usage = usage_service_pb2.DESCRIPTOR.services_by_name["UsageService"]
        health = health_pb2.DESCRIPTOR.services_by_name["Health"]
        self.generate: Method[GenerateRequest, GenerateResponse] = self._method(generate, "Generate")
        self.generate_stream: Method[GenerateRequest, GenerateStreamResponse] = self._method(
            generate, "GenerateStream"
        )
        self.list_models: Method[ListModelsRequest, ListModelsResponse] = self._method(models, "ListModels")
        self.get_model: Method[GetModelRequest, GetModelResponse] = self._method(models, "GetModel")
        self.count_tokens: Method[CountTokensRequest, CountTokensResponse] = self._method(
            models, "CountTokens"
        )
        self.get_usage: Method[GetUsageRequest, GetUsageResponse] = self._method(usage, "GetUsage")
        self.check_health: Method[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse] = (
            self._method(health, "Check")
        )

    def _method(self, service: Any, name: str) -> Any:
        method = service.methods_by_name[name]
        return self.channel.unary_stream(
            f"/{service.full_name}/{name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
