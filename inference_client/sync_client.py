"""The client for blocking code; its methods have the names of those of `AsyncClient`."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message as ProtoMessage
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lodestream.inference.v1 import (
    generate_service_pb2_grpc,
    model_service_pb2_grpc,
    usage_service_pb2_grpc,
)
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest
from lodestream.inference.v1.model_service_pb2 import GetModelRequest, ListModelsRequest
from lodestream.inference.v1.usage_service_pb2 import GetUsageRequest

from inference_client.call import CallDefaults, CallOptions, ClientCall, Metadata, RetryPolicy
from inference_client.channel import (
    DEFAULT_MAX_MESSAGE_BYTES,
    RETIRED_POLL,
    ClientOptions,
    Pool,
    TlsConfig,
    check_target,
    key_from_environment,
    open_sync,
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
from inference_client.sync_stream import Rpc, Stream

if TYPE_CHECKING:
    from typing import Self, Unpack

RequestT = TypeVar("RequestT", bound=ProtoMessage)
ResponseT = TypeVar("ResponseT", bound=ProtoMessage)
ResultT = TypeVar("ResultT")


class Client:
    """Calls one inference service. Make one client and share it: it has a connection to each replica, and
    opens further ones while many calls are open.

    It connects with the first call, and any number of threads may use it. Use it as a context manager, or
    `close` it. Methods raise the errors of `inference_client.errors`, and `ValueError` or `TypeError` for
    arguments that do not fit a request message. Do not fork a process that has a client.

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
        self._defaults = CallDefaults(
            api_key, timeout, RetryPolicy(retries, retry_timeout), max_message_bytes
        )
        check_target(target)
        self._tls = tls
        self._pool = Pool(lambda: _Stubs(open_sync(target, max_message_bytes, self._tls)))
        self._closed = threading.Event()

    @classmethod
    def from_environment(cls, target: str | None = None, **options: Unpack[ClientOptions]) -> Self:
        """Make a client with the key in LODESTREAM_API_KEY, for the target in LODESTREAM_TARGET.

        Args:
            target: replaces the variable; the default of both is 127.0.0.1:50051.
            options: the other arguments of the class.

        """
        return cls(target or target_from_environment(), api_key=key_from_environment(), **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls that still run fail with `ClosedError`. Safe to call twice."""
        self._closed.set()
        for stubs in self._pool.opened:
            stubs.channel.close()

    def use_tls(self, tls: TlsConfig | None) -> None:
        """Use other TLS settings, as renewed certificates, for calls that begin from now on.

        Running calls end on their connections, which are closed after them.
        """
        self._tls = tls
        for stubs in self._pool.retire():
            threading.Thread(target=_close_idle, args=(stubs, self._closed), daemon=True).start()

    def generate(
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
        return self.generate_request(build_request(**options), timeout=timeout, request_id=request_id)

    def stream(
        self,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Stream:
        """Generate, and yield the events while they arrive. The arguments are those of `generate`."""
        return self.stream_request(build_request(**options), timeout=timeout, request_id=request_id)

    def validate(
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
        return self.validate_request(build_request(**options), timeout=timeout, request_id=request_id)

    def generate_request(self, request: GenerateRequest, **options: Unpack[CallOptions]) -> Generation:
        """Like `generate`, for a request message; `api_key` replaces the key of the client."""
        call = self._defaults.call(**options)
        decode = partial(decode_generation, choices=choice_count(request))
        generation = self._call(lambda stubs: stubs.generate.Generate, request, call, decode)
        return replace(generation, rate_limits=call.rate_limits)

    def stream_request(self, request: GenerateRequest, **options: Unpack[CallOptions]) -> Stream:
        """Like `stream`, for a request message; `api_key` replaces the key of the client.

        The timeout starts here. The call begins with the first read, which also raises the first error.
        """
        call = self._defaults.call(**options)
        return self._open_stream(request, call)

    def collect_request(self, request: GenerateRequest, **options: Unpack[CallOptions]) -> Generation:
        """Like `generate_request`, but the answer arrives as a stream, so that no message is large.

        A stream that fails as UNAVAILABLE is tried again from the beginning, even after its first output.
        """
        call = self._defaults.call(**options)
        while True:
            try:
                return self._open_stream(request, call).collect()
            except InferenceError as error:
                if not isinstance(error.__cause__, grpc.RpcError):
                    raise
                pause = call.pause_after(error.__cause__)
            self._closed.wait(pause)

    def _open_stream(self, request: GenerateRequest, call: ClientCall) -> Stream:
        def open_rpc() -> Rpc:
            call.check_size(request)
            return self._stream(request, call)

        return Stream(open_rpc, call, StreamProtocolChecker(choice_count(request)), self._closed)

    def validate_request(self, request: GenerateRequest, **options: Unpack[CallOptions]) -> Validation:
        """Like `validate`, for a request message; `api_key` replaces the key of the client."""
        call = self._defaults.call(**options)
        found = self._call(
            lambda stubs: stubs.generate.Generate, build_validation(request), call, decode_validation
        )
        return replace(found, rate_limits=call.rate_limits)

    def list_models(self, **options: Unpack[CallOptions]) -> tuple[Model, ...]:
        """List the served models, under each of their names."""
        call = self._defaults.call(**options)
        models = self._call(lambda stubs: stubs.models.ListModels, ListModelsRequest(), call, decode_models)
        return tuple(replace(model, rate_limits=call.rate_limits) for model in models)

    def get_model(self, model: str, **options: Unpack[CallOptions]) -> Model:
        """Get one model by id or alias; `NotFoundError` has the names of the served models."""
        call = self._defaults.call(**options)
        request = GetModelRequest(model=model)
        found = self._call(lambda stubs: stubs.models.GetModel, request, call, decode_model)
        return replace(found, rate_limits=call.rate_limits)

    def get_usage(self, of_request: str, **options: Unpack[CallOptions]) -> UsageReceipt:
        """Get the receipt of a past request of the same key.

        Args:
            of_request: the id of that request; where the key used it more than once, the newest counts.
            options: see `CallOptions`.

        Raises:
            NotFoundError: the key made no such request, or its receipt was not kept.

        """
        call = self._defaults.call(**options)
        request = GetUsageRequest(request_id=of_request)
        found = self._call(lambda stubs: stubs.usage.GetUsage, request, call, decode_usage)
        return replace(found, rate_limits=call.rate_limits)

    def count_tokens(
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
        found = self._call(lambda stubs: stubs.models.CountTokens, request, call, decode_token_count)
        return replace(found, rate_limits=call.rate_limits)

    def health(self, service: str = "", *, timeout: float | None = None) -> Health:
        """Get the state of one gRPC service, without retries; the empty name is the whole server.

        Raises:
            UnavailableError: the service is not reachable.

        """
        call = replace(self._defaults, retry=RetryPolicy(0)).call(timeout=timeout)
        try:
            return self._call(lambda stubs: stubs.health_check, health_request(service), call, decode_health)
        except NotFoundError:
            return Health.SERVICE_UNKNOWN

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return when the service accepts requests.

        Raises:
            DeadlineError: it accepts none within `timeout` seconds.

        """
        wait = ReadyWait(timeout)
        while True:
            try:
                state: Health | InferenceError = self.health(timeout=wait.next_timeout())
            except InferenceError as error:
                state = error
            if wait.is_over(state):
                return
            self._closed.wait(READY_POLL)

    def _call(
        self,
        method: Callable[[_Stubs], grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]],
        request: RequestT,
        call: ClientCall,
        decode: Callable[[ResponseT], ResultT],
    ) -> ResultT:
        call.check_size(request)
        while True:
            try:
                return call.decoded(decode, self._wait(method, request, call))
            except grpc.RpcError as error:
                self._check_open()
                pause = call.pause_after(error)
            self._closed.wait(pause)

    def _wait(
        self,
        method: Callable[[_Stubs], grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]],
        request: RequestT,
        call: ClientCall,
    ) -> ResponseT:
        timeout, metadata = call.timeout(), call.metadata()
        self._check_open()
        stubs = self._pool.begin()
        try:
            message, rpc = method(stubs).with_call(request, timeout=timeout, metadata=metadata)
        except ValueError:
            # gRPC raises ValueError if another thread has closed the channel.
            self._check_open()
            raise
        finally:
            self._pool.end(stubs)
        call.rate_limits = rate_limits_of(rpc.initial_metadata())
        return message

    def _stream(self, request: GenerateRequest, call: ClientCall) -> Rpc:
        timeout, metadata = call.timeout(), call.metadata()
        self._check_open()
        stubs = self._pool.begin()
        try:
            rpc: Any = stubs.generate.GenerateStream(request, timeout=timeout, metadata=metadata)
        except ValueError:
            self._pool.end(stubs)
            self._check_open()
            raise
        # A done callback would keep a reference to the call, which must end when the last reference is
        # dropped.
        weakref.finalize(rpc, self._pool.end, stubs).atexit = False
        return rpc  # type: ignore[no-any-return]

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise ClosedError("The client is closed.")


def _close_idle(stubs: _Stubs, closed: threading.Event) -> None:
    """Close a connection after its last call, or when the client is closed."""
    while stubs.open_calls and not closed.wait(RETIRED_POLL):
        pass
    stubs.channel.close()


class _Stubs:
    """The methods of the service on one connection."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.open_calls = 0
        self.generate = generate_service_pb2_grpc.GenerateServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)
        self.usage = usage_service_pb2_grpc.UsageServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        self.health_check: grpc.UnaryUnaryMultiCallable[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ] = health.Check
