"""A stream of the service as a response of server-sent events."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from inference_client import AsyncStream, Finished, ProtocolError, Started
from lodestream_common.pacing import Interval, no_interval
from rest_bridge.errors import ClientGone, api_error, error_body
from rest_bridge.middleware import RequestContext, UntilDisconnect
from rest_bridge.streaming.chunks import Frames, error_frame

KEEPALIVE = b": keep-alive\n\n"
_HEADERS = {
    "content-type": "text/event-stream",
    # No proxy on the way may hold events back, or compress several into one.
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


class EventStream(Response):
    """Relays a generation.

    Nothing is sent before its first output or a silence of `keepalive`: until then a failure is a plain error
    with its status, from then on an event.

    Args:
        stream: the generation, not begun.
        frames: makes the renderer of its events once it is known when it began.
        exchange: the request; is told how the stream ended.
        keepalive: seconds of silence before the head of the reply, and before each comment line.
        interval: seconds for which frames are gathered after some were sent, now.
        headers: further headers of the response, by the stream's first event; None: it is still to come.

    """

    def __init__(
        self,
        stream: AsyncStream,
        frames: Callable[[int], Frames],
        exchange: RequestContext,
        *,
        keepalive: float,
        interval: Interval,
        headers: Callable[[Started | None], Mapping[str, str]],
    ) -> None:
        # No super().__init__(): it would give the response a body, and the length of that.
        self.status_code = 200
        self.background = None
        self.init_headers({**_HEADERS, **headers(None)})
        self._stream = stream
        self._frames = frames
        self._exchange = exchange
        self._keepalive = keepalive
        self._interval = interval
        self._until_revoked = exchange.until_revoked
        self._headers_after = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leave it to run after the app."""
        self._exchange.stream = self.run

    async def run(self, receive: Receive, send: Send) -> None:
        """Run the whole stream.

        Raises:
            InferenceError: it failed before anything was sent.
            ClientGone: the caller left; the generation is cancelled.

        """
        output = Output(send, self._keepalive, self.status_code, self.raw_headers, self._interval)
        try:
            with self._until_revoked:
                async with UntilDisconnect(receive), self._stream:
                    last = await self._relay(output)
        except ClientGone:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if not output.is_started:
                raise
            last = self._failure(error)
        finally:
            output.stop_timers()
        await output.finish(last)

    async def _relay(self, output: Output) -> bytes:
        """Send everything but the end, and return that."""
        started = await anext(self._stream)
        if not isinstance(started, Started):
            raise ProtocolError("The stream has no beginning.")
        missed = output.set_headers(self._headers_after(started))
        first = await anext(self._stream)
        frames = self._frames(started.created)
        await output.write(missed + frames.render(first))
        async for event in self._stream:
            choices = frames.choices_begun
            if frame := frames.render(event):
                # Neither the first output of a choice nor its end waits for others.
                at_once = isinstance(event, Finished) or frames.choices_begun > choices
                await output.write(frame, at_once=at_once)
        return frames.closing()

    def _failure(self, error: BaseException) -> bytes:
        failure = api_error(error, self._exchange.request_id, self._exchange.names)
        self._exchange.outcome = failure.code
        return error_frame(error_body(failure))


class Output:
    """The reply of an event stream: its head, whole events, and a comment line after each silence.

    The silence counts from the beginning; the head is sent with whatever comes first, event or comment.
    Frames that come within the interval after others were sent go out together at its end.

    Args:
        send: the server's.
        keepalive: seconds of silence before a comment line.
        status: HTTP status of the reply.
        headers: all headers of the reply.
        interval: seconds for which frames are gathered, now.

    """

    __slots__ = (
        "_flush_timer",
        "_gathered",
        "_head",
        "_interval",
        "_keepalive",
        "_last",
        "_loop",
        "_send",
        "_silence_timer",
        "_writer",
    )

    def __init__(
        self,
        send: Send,
        keepalive: float,
        status: int,
        headers: list[tuple[bytes, bytes]],
        interval: Interval = no_interval,
    ) -> None:
        self._send = send
        self._keepalive = keepalive
        self._interval = interval
        self._head: Message | None = {"type": "http.response.start", "status": status, "headers": headers}
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        """When something was sent; infinite while it is being sent."""
        self._gathered: list[bytes] = []
        self._writer: asyncio.Task[None] | None = None
        """Sends a comment, or what was gathered."""
        self._silence_timer = self._loop.call_later(keepalive, self._on_silence)
        self._flush_timer: asyncio.TimerHandle | None = None

    @property
    def is_started(self) -> bool:
        """Whether the head was sent: nothing can be taken back any more."""
        return self._head is None

    def set_headers(self, headers: Mapping[str, str]) -> bytes:
        """Set headers of the reply, in the place of those with the same names.

        Returns:
            Comment lines that say the same, where the head was sent already; else nothing.

        """
        if self._head is None:
            return b"".join(f": {name}: {value}\n\n".encode() for name, value in headers.items())
        if headers:
            names = {name.encode("latin-1") for name in headers}
            kept = [header for header in self._head["headers"] if header[0] not in names]
            added = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
            self._head["headers"] = [*kept, *added]
        return b""

    async def write(self, frame: bytes, *, at_once: bool = True) -> None:
        """Send a frame, or gather it; waits as long as the caller does not read."""
        if self._writer is not None:
            await self._finish_writer()
        if not at_once and self._is_gathering():
            self._gathered.append(frame)
            return
        await self._write(self._take(frame))

    async def finish(self, frame: bytes) -> None:
        """Send the last frame and the end."""
        if self._writer is not None:
            await self._finish_writer()
        await self._write(self._take(frame), is_last=True)

    def stop_timers(self) -> None:
        """Begin no comment line from now on; one that began is finished before anything else is sent."""
        self._silence_timer.cancel()
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        if self._writer is not None and not self.is_started:
            self._writer.cancel()
            self._writer = None

    def _is_gathering(self) -> bool:
        """Whether what comes now waits for more."""
        if self._flush_timer is not None:
            return True
        interval = self._interval()
        if not interval:
            return False
        left = self._last + interval - self._loop.time()
        if left <= 0:
            return False
        self._flush_timer = self._loop.call_later(left, self._on_interval)
        return True

    def _take(self, frame: bytes) -> bytes:
        """Everything that was gathered, and this frame."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if not self._gathered:
            return frame
        frames, self._gathered = [*self._gathered, frame], []
        return b"".join(frames)

    async def _write(self, frames: bytes, *, is_last: bool = False) -> None:
        self._last = math.inf
        if self._head is not None:
            head, self._head = self._head, None
            await self._send(head)
        await self._send({"type": "http.response.body", "body": frames, "more_body": not is_last})
        self._last = self._loop.time()

    def _start_writer(self, frames: bytes) -> None:
        """Send something while nobody waits for it, after what is being sent already."""
        self._last = math.inf
        self._writer = self._loop.create_task(self._write_after(self._writer, frames))

    async def _write_after(self, writer: asyncio.Task[None] | None, frames: bytes) -> None:
        if writer is not None:
            await writer
        await self._write(frames)

    async def _finish_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer

    def _on_interval(self) -> None:
        self._flush_timer = None
        self._start_writer(self._take(b""))

    def _on_silence(self) -> None:
        # One timer that looks back costs less than one that every event would set anew.
        left = self._last + self._keepalive - self._loop.time()
        if left <= 0:
            self._start_writer(KEEPALIVE)
        self._silence_timer = self._loop.call_later(
            left if 0 < left < self._keepalive else self._keepalive, self._on_silence
        )
