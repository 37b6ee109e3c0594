"""A stream of the service as a response of server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inference_client import AsyncStream, ProtocolError, Started
from rest_bridge.disconnect import UntilDisconnect
from rest_bridge.errors import ClientGone, api_error, error_body
from rest_bridge.exchange import Exchange
from rest_bridge.frames import Frames, error_frame

KEEPALIVE = b": keep-alive\n\n"
_HEADERS = {
    "content-type": "text/event-stream",
    # No proxy on the way may hold events back, or compress several into one.
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


class EventStream(Response):
    """Relays a generation. Nothing is sent before its first output: until then a failure is a plain error.

    Args:
        stream: the generation, not begun.
        frames: makes the renderer of its events once it is known when it began.
        exchange: the request; is told how the stream ended.
        keepalive: seconds of silence before a comment line.
        headers: further headers of the response.

    """

    def __init__(
        self,
        stream: AsyncStream,
        frames: Callable[[int], Frames],
        exchange: Exchange,
        keepalive: float,
        headers: Mapping[str, str],
    ) -> None:
        # No super().__init__(): it would give the response a body, and the length of that.
        self.status_code = 200
        self.background = None
        self.init_headers({**_HEADERS, **headers})
        self._stream = stream
        self._frames = frames
        self._exchange = exchange
        self._keepalive = keepalive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leave it to run after the app."""
        self._exchange.stream = self.run

    async def run(self, receive: Receive, send: Send) -> None:
        """Run the whole stream.

        Raises:
            InferenceError: it failed before its first output.
            ClientGone: the caller left; the generation is cancelled.

        """
        output = Output(send, self._keepalive)
        try:
            async with UntilDisconnect(receive), self._stream:
                last = await self._relay(output)
        except ClientGone:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if not output.is_started:
                raise
            last = self._failure(error)
        finally:
            output.stop_keepalive()
        await output.finish(last)

    async def _relay(self, output: Output) -> bytes:
        """Send everything but the end, and return that."""
        started = await anext(self._stream)
        if not isinstance(started, Started):
            raise ProtocolError("The stream has no beginning.")
        first = await anext(self._stream)
        frames = self._frames(started.created)
        await output.start(self.status_code, self.raw_headers)
        await output.write(frames.render(first))
        async for event in self._stream:
            if frame := frames.render(event):
                await output.write(frame)
        return frames.closing()

    def _failure(self, error: BaseException) -> bytes:
        failure = api_error(error, self._exchange.request_id)
        self._exchange.outcome = failure.code
        return error_frame(error_body(failure))


class Output:
    """The body of an event stream: whole events, and a comment line whenever there was none for a while."""

    __slots__ = ("_comment", "_interval", "_is_writing", "_last", "_loop", "_send", "_timer", "is_started")

    def __init__(self, send: Send, interval: float) -> None:
        self._send = send
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None
        self._is_writing = False
        self.is_started = False

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head, and keep the stream alive from now on."""
        self.is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self._last = self._loop.time()
        self._timer = self._loop.call_later(self._interval, self._on_timer)

    async def write(self, frame: bytes) -> None:
        """Send a frame; waits as long as the caller does not read."""
        self._is_writing = True
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})
        self._is_writing = False
        self._last = self._loop.time()

    async def finish(self, frame: bytes) -> None:
        """Send the last frame and the end."""
        await self._send({"type": "http.response.body", "body": frame, "more_body": False})

    def stop_keepalive(self) -> None:
        """Send no comment line from now on."""
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()

    def _on_timer(self) -> None:
        # One timer that looks back costs less than one that every event would set anew.
        left = self._last + self._interval - self._loop.time()
        if left <= 0 and not self._is_writing:
            self._comment = self._loop.create_task(self.write(KEEPALIVE))
        self._timer = self._loop.call_later(left if left > 0 else self._interval, self._on_timer)
