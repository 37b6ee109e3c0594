"""Sends the service's stream as server-sent events, with a comment line after each silence."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from inference_client import AsyncStream, Finished, ProtocolError, Started
from lodestream_common.pacing import Interval, no_interval
from rest_bridge.errors import ClientGone, api_error, error_body
from rest_bridge.middleware import RequestContext, until_disconnect
from rest_bridge.streaming.chunks import Frames, error_frame

KEEPALIVE = b": keep-alive\n\n"
_HEADERS = {
    "content-type": "text/event-stream",
    # Proxies must neither buffer events nor compress several of them together.
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


class EventStream(Response):
    """A response that relays a generation.

    Nothing is sent before the first output or a silence of `keepalive` seconds. A failure before that is an
    error response with its own status; a failure after that is an event.

    Args:
        stream: the generation, not started.
        frames: makes the renderer of events, from the time at which the generation started.
        context: the request; gets the outcome of the stream.
        keepalive: seconds of silence before the response's head, and before each comment line.
        interval: returns the current stream interval, in seconds.
        headers: further headers of the response, from the stream's first event; None: it has not arrived.

    """

    def __init__(
        self,
        stream: AsyncStream,
        frames: Callable[[int], Frames],
        context: RequestContext,
        *,
        keepalive: float,
        interval: Interval,
        headers: Callable[[Started | None], Mapping[str, str]],
    ) -> None:
        # super().__init__() would give the response a body and a content-length.
        self.status_code = 200
        self.background = None
        self.init_headers({**_HEADERS, **headers(None)})
        self._stream = stream
        self._frames = frames
        self._context = context
        self._keepalive = keepalive
        self._interval = interval
        self._headers_after = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Schedule the stream to run after the app has returned."""
        self._context.stream = self.run

    async def run(self, receive: Receive, send: Send) -> None:
        """Run the whole stream.

        Raises:
            InferenceError: the generation failed before anything was sent.
            ClientGone: the caller left; the generation is cancelled.

        """
        output = Output(send, self._keepalive, self.status_code, self.raw_headers, self._interval)
        try:
            async with self._context.until_revoked, until_disconnect(receive), self._stream:
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
        """Send all events but the last ones, and return those."""
        started = await anext(self._stream)
        if not isinstance(started, Started):
            raise ProtocolError("The stream does not begin with its start event.")
        unsent, at_once = output.set_headers(self._headers_after(started)), True
        frames = self._frames(started.created)
        async for event in self._stream:
            choices = frames.choices_started
            unsent += frames.render(event)
            # Neither the first output of a choice nor its end waits for others.
            at_once = at_once or isinstance(event, Finished) or frames.choices_started > choices
            if unsent and not self._stream.has_ready_event:
                await output.write(unsent, at_once=at_once)
                unsent, at_once = b"", False
        return unsent + frames.closing()

    def _failure(self, error: BaseException) -> bytes:
        failure = api_error(error, self._context.request_id, self._context.names)
        self._context.outcome = failure.code
        return error_frame(error_body(failure))


class Output:
    """Writes an event stream: the response's head, whole events, and a comment line after each silence.

    The first silence counts from the creation of this object. The head is sent with the first event or
    comment line. Frames that arrive within the stream interval after a write are gathered and sent together
    at its end.

    Args:
        send: the server's.
        keepalive: seconds of silence before a comment line.
        status: HTTP status of the response.
        headers: all headers of the response.
        interval: returns the current stream interval, in seconds.

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
        """Time of the last write; infinite during one."""
        self._gathered: list[bytes] = []
        self._writer: asyncio.Task[None] | None = None
        """Sends a comment line, or the gathered frames."""
        self._silence_timer = self._loop.call_later(keepalive, self._on_silence)
        self._flush_timer: asyncio.TimerHandle | None = None

    @property
    def is_started(self) -> bool:
        """Whether the head was sent, so that neither status nor headers can change."""
        return self._head is None

    def set_headers(self, headers: Mapping[str, str]) -> bytes:
        """Set headers of the response; each replaces those with its name.

        Returns:
            Comment lines with the same content if the head was sent already; else no bytes.

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
        """Send a frame, or gather it; wait while the caller does not read."""
        if self._writer is not None:
            await self._finish_writer()
        if not at_once and self._is_gathering():
            self._gathered.append(frame)
            return
        await self._write(self._take(frame))

    async def finish(self, frame: bytes) -> None:
        """Send the last frame and end the response."""
        if self._writer is not None:
            await self._finish_writer()
        await self._write(self._take(frame), is_last=True)

    def stop_timers(self) -> None:
        """Start no more comment lines; one that is being sent is completed before the next frame."""
        self._silence_timer.cancel()
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        if self._writer is not None and not self.is_started:
            self._writer.cancel()
            self._writer = None

    def _is_gathering(self) -> bool:
        """Whether the next frame waits for further ones."""
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
        """All gathered frames, and this one."""
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
        """Send frames in a task of their own, after those that are being sent already."""
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
        # One timer that checks the last write costs less than a new timer for every event.
        left = self._last + self._keepalive - self._loop.time()
        if left <= 0:
            self._start_writer(KEEPALIVE)
        self._silence_timer = self._loop.call_later(
            left if 0 < left < self._keepalive else self._keepalive, self._on_silence
        )
