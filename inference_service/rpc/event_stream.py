"""Writes the events of a generation to a stream: each alone, or those that are ready together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from lodestream.inference.v1.generate_service_pb2 import GenerateStreamResponse as Message

from inference_service.output.events import Event, Started, Summary
from inference_service.rpc.call import RpcCall
from inference_service.rpc.encode import joined_response, stream_response

JOINED_EVENTS = "x-joined-events"
"""The metadata with which a caller accepts several events in one message, with the value 1."""
_HOLD_SECONDS = 0.25
"""Seconds that `Started` waits for the first output. A short answer then takes one message."""


class EventWriter(Protocol):
    """Writes the events of one call, except the last message, which gRPC sends with the status."""

    async def take(self, batch: Sequence[Event]) -> None:
        """Write events that are ready together."""

    def last_message(self) -> Message:
        """The message that ends with the summary, once it was taken."""

    async def flush(self) -> None:
        """Write what is held."""

    def stop(self) -> None:
        """Write nothing more."""


def event_writer(call: RpcCall) -> EventWriter:
    """The writer that the caller asks for."""
    accepts = (JOINED_EVENTS, "1") in call.metadata
    return _JoinedEvents(call) if accepts else _SingleEvents(call)


class _SingleEvents:
    def __init__(self, call: RpcCall) -> None:
        self._call = call

    async def take(self, batch: Sequence[Event]) -> None:
        *others, self._last = batch
        for event in others:
            await self._call.write(stream_response(event))
        if not isinstance(self._last, Summary):
            await self._call.write(stream_response(self._last))

    def last_message(self) -> Message:
        return stream_response(self._last)

    async def flush(self) -> None:
        """Nothing is ever held."""

    def stop(self) -> None:
        """Nothing is ever held."""


class _JoinedEvents:
    def __init__(self, call: RpcCall) -> None:
        self._call = call
        self._held: Sequence[Event] = ()
        self._last: Sequence[Event] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        """Writes what was held for too long."""

    async def take(self, batch: Sequence[Event]) -> None:
        if isinstance(batch[-1], Started):
            self._held = batch
            self._timer = asyncio.get_running_loop().call_later(_HOLD_SECONDS, self._on_timer)
            return
        if self._timer is not None:
            batch = [*await self._release(), *batch]
        if isinstance(batch[-1], Summary):
            self._last = batch
        else:
            await self._call.write(joined_response(batch))

    def last_message(self) -> Message:
        return joined_response(self._last)

    async def flush(self) -> None:
        if held := await self._release():
            await self._call.write(joined_response(held))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            self._writing.cancel()

    async def _release(self) -> Sequence[Event]:
        """Return the events that are still held; after this nothing is held, or being written."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await self._writing
        held, self._held = self._held, ()
        return held

    def _on_timer(self) -> None:
        held, self._held = self._held, ()
        self._writing = asyncio.create_task(self._call.write(joined_response(held)))
