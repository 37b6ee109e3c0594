"""The stream of one generation's events, for blocking code."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import grpc
from lodestream.inference.v1 import generate_service_pb2

from inference_client.call import ClientCall
from inference_client.decode import StreamProtocolChecker, cut_short, decode_event
from inference_client.errors import ClosedError, InferenceError
from inference_client.events import Delta, Event, Generation, GenerationFold, Started, Summary
from inference_client.status import error_from_rpc, rate_limits_of

if TYPE_CHECKING:
    from typing import Self


class Rpc(Protocol):
    """The type of a running call; gRPC itself has no public name for it."""

    def __iter__(self) -> Iterator[generate_service_pb2.GenerateStreamResponse]: ...

    def __next__(self) -> generate_service_pb2.GenerateStreamResponse: ...

    def initial_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...

    def cancel(self) -> object: ...


class Stream:
    """The events of one generation: `Started`, any number of `Delta` and `Finished`, one `Summary`.

    The call begins with the first read. Use the stream as a context manager: the end of the block cancels a
    call that still runs. So do `close` and dropping the last reference. Only one thread may read a stream.

    Iterating raises any `InferenceError`. After an error or the end there are no more events.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_checker",
        "_client_closed",
        "_ended",
        "_has_output",
        "_has_started",
        "_open",
        "_rpc",
        "rate_limits",
        "request_id",
    )

    def __init__(
        self,
        open_rpc: Callable[[], Rpc],
        call: ClientCall,
        checker: StreamProtocolChecker,
        client_closed: threading.Event,
    ) -> None:
        self.request_id = call.request_id
        """The request id: the one that was sent, and after `Started` the one in the log of the service."""
        self.rate_limits: Mapping[str, str] = {}
        """The `x-ratelimit-` metadata of the reply: limit, remaining and reset of the key's quotas. It
        arrives before `Started`."""
        self._open = open_rpc
        self._call = call
        self._client_closed = client_closed
        self._rpc: Rpc | None = None
        self._checker = checker
        self._has_started = False
        self._has_output = False
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        try:
            event = self._receive()
            if isinstance(event, Delta):
                return event
            if isinstance(event, Started):
                self.request_id = event.request_id or self.request_id
            elif isinstance(event, Summary):
                self._finish(self._rpc)
        except grpc.RpcError as error:
            self._raise_if_closed()
            self.close()
            raise error_from_rpc(error, self.request_id) from error
        except InferenceError as error:
            self.close()
            error.request_id = error.request_id or self.request_id
            raise
        return event

    def text(self) -> Iterator[str]:
        """Yield the new texts of the first choice that are not empty."""
        for event in self:
            if isinstance(event, Delta) and event.choice_index == 0 and event.text:
                yield event.text

    def collect(self) -> Generation:
        """Read the whole stream into one answer.

        Raises:
            RuntimeError: events were read before, and are not stored.

        """
        if self._rpc is not None or self._ended:
            raise RuntimeError("collect() needs a stream of which nothing was read before.")
        fold = GenerationFold()
        for event in self:
            fold.add(event)
        return replace(fold.result(), rate_limits=self.rate_limits)

    def close(self) -> None:
        """Cancel the call if it still runs. Safe to call twice, and from another thread."""
        self._ended = True
        if self._rpc is not None:
            self._rpc.cancel()

    def _receive(self) -> Event:
        """Receive the next event; a `Started` of a further attempt is skipped."""
        while True:
            if self._rpc is None:
                self._rpc = self._open()
            try:
                if not self._has_started:
                    self.rate_limits = rate_limits_of(self._rpc.initial_metadata())
                message = next(self._rpc, None)
            except grpc.RpcError as error:
                self._begin_again(error)
                continue
            if message is None:
                raise cut_short()
            event = decode_event(message)
            if event is None:
                continue
            self._checker.check(event)
            if not isinstance(event, Started):
                self._has_output = True
                return event
            if not self._has_started:
                self._has_started = True
                return event

    def _begin_again(self, failure: grpc.RpcError) -> None:
        """Prepare another attempt. After the first output there is none, since its output could differ.

        Raises:
            grpc.RpcError, InferenceError: there is no further attempt.

        """
        self._raise_if_closed()
        if self._has_output or (self._has_started and not self._call.can_restart_stream):
            raise failure
        pause = self._call.pause_after(failure)
        self._rpc = None
        self._checker.restart()
        self._client_closed.wait(pause)
        self._raise_if_closed()

    def _finish(self, rpc: Rpc | None) -> None:
        """Read the status, so that a caller who closes the stream now does not cancel a finished call."""
        # The answer is complete with the summary, also if the connection breaks now.
        with contextlib.suppress(grpc.RpcError):
            for message in rpc or ():
                event = decode_event(message)
                if event is not None:
                    self._checker.check(event)
        self._ended = True

    def _raise_if_closed(self) -> None:
        if self._ended or self._client_closed.is_set():
            self._ended = True
            raise ClosedError(
                "The stream was closed while it was read.", request_id=self.request_id
            ) from None
