"""Calls from a frontend to the engine's process: it starts generators there and pulls their values.

A generator makes its next value only once it is pulled, so no buffer grows behind a frontend that is slow.
Closing one closes it there, and a frontend that is gone closes all that it started.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from typing import Any

import structlog

from inference_service.backends.base import BackendError, EngineDeadError, EngineRequestError
from inference_service.errors import ServiceError
from inference_service.frontends.link import Kind, Link, Message, connect
from inference_service.scheduling.admission import DeadlinePassed

_CLOSE_SECONDS = 1.0
"""Seconds that the other side may take to read the last messages."""
_LOST = "the engine's process has ended"

_log = structlog.get_logger(__name__)


class Ended(Exception):
    """Expected: a remote generator has no further value."""


class RemoteValues:
    """A generator of the other side, as the side sees it that pulls."""

    __slots__ = ("_link", "_waiter", "is_ended", "number")

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self.number = number
        self.is_ended = False
        # To start it is to pull its first value.
        self._waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def first(self) -> Any:
        """Wait for the first value.

        Raises:
            Ended: there is none.
            Exception: what the generator raised; EngineDeadError where the other side is gone.

        """
        return await self._waiter

    async def pull(self, value: object = None) -> Any:
        """Wait for the next value; `value` is what the generator gets. Raises as `first`."""
        if not self.is_ended:
            self._waiter = asyncio.get_running_loop().create_future()
            self._link.send(Kind.PULL, self.number, value)
        return await self._waiter

    def take(self, value: object) -> None:
        """Take the value that was pulled."""
        if not self._waiter.done():
            self._waiter.set_result(value)

    def end(self, error: Exception) -> None:
        """Note that there is no further value, and why."""
        self.is_ended = True
        if self._waiter.done():
            # The value before was taken, or nobody waits for it any more; the next pull gets the error.
            self._waiter = asyncio.get_running_loop().create_future()
        self._waiter.set_exception(error)
        # Nobody may ever ask.
        self._waiter.exception()


class Remote:
    """The other side, as the side sees it that pulls.

    Args:
        on_state: takes each state that the other side reports.

    """

    _link: Link

    def __init__(self, on_state: Callable[[Any], None]) -> None:
        self._on_state = on_state
        self._values: dict[int, RemoteValues] = {}
        self._last = 0
        self._lost = asyncio.Event()

    @property
    def is_lost(self) -> bool:
        """Whether the other side is gone."""
        return self._lost.is_set()

    @property
    def silence(self) -> float:
        """Seconds since the other side sent something."""
        return asyncio.get_running_loop().time() - self._link.heard

    async def connect(self, ours: socket.socket) -> None:
        """Begin to talk over one end of a socket pair."""
        self._link = await connect(ours, self._take, self._lose)

    def start(self, name: str, *arguments: object) -> RemoteValues:
        """Start a generator of the other side, which `stop` has to close.

        Args:
            name: of what the other side offers.
            arguments: of the generator.

        Raises:
            EngineDeadError: the other side is gone.

        """
        if self.is_lost:
            raise EngineDeadError(_LOST)
        self._last += 1
        values = self._values[self._last] = RemoteValues(self._link, self._last)
        self._link.send(Kind.START, values.number, (name, arguments))
        return values

    def stop(self, values: RemoteValues) -> None:
        """Close a generator of the other side. Safe to call twice."""
        if self._values.pop(values.number, None) is not None and not values.is_ended:
            self._link.send(Kind.CLOSE, values.number)

    @contextmanager
    def open(self, name: str, *arguments: object) -> Iterator[RemoteValues]:
        """Start a generator of the other side, and close it when the context ends. Raises as `start`."""
        values = self.start(name, *arguments)
        try:
            yield values
        finally:
            self.stop(values)

    async def call(self, name: str, *arguments: object) -> Any:
        """Call a function of the other side; cancelling cancels it there, too.

        Raises:
            Exception: what the function raised; EngineDeadError where the other side is gone.

        """
        with self.open(name, *arguments) as values:
            result = await values.first()
            values.is_ended = True
            return result

    def note(self, name: str, *arguments: object) -> None:
        """Call a function of the other side without waiting for it."""
        self._link.send(Kind.NOTE, 0, (name, arguments))

    async def close(self) -> None:
        """Send what was collected, and end the connection."""
        if not self.is_lost:
            self._link.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), _CLOSE_SECONDS)

    def _take(self, message: Message) -> None:
        kind, number, value = message
        if kind == Kind.STATE:
            self._on_state(value)
            return
        values = self._values.get(number)
        if values is None:
            return
        if kind == Kind.VALUE:
            values.take(value)
        else:
            values.end(Ended() if kind == Kind.END else _unpacked(value))

    def _lose(self) -> None:
        self._lost.set()
        for values in tuple(self._values.values()):
            values.end(EngineDeadError(_LOST))


Offer = Callable[..., "AsyncGenerator[Any, Any] | Coroutine[Any, Any, Any]"]
"""Makes a generator or a coroutine from the arguments of the other side."""


class Responder:
    """The side that is pulled from.

    Args:
        offers: what the other side may start, by name.
        notes: what it may call without an answer, by name.
        on_lost: is called once the other side is gone; what it started is closed by then.

    """

    _link: Link

    def __init__(
        self,
        offers: Mapping[str, Offer],
        notes: Mapping[str, Callable[..., None]],
        on_lost: Callable[[], None],
    ) -> None:
        self._offers = offers
        self._notes = notes
        self._on_lost = on_lost
        self._running: dict[int, _Running] = {}
        self.closed = asyncio.Event()
        """Set once the other side is gone."""

    async def connect(self, ours: socket.socket) -> None:
        """Begin to answer over one end of a socket pair."""
        self._link = await connect(ours, self._take, self._lose)

    def report(self, state: object) -> None:
        """Send a state, unless the other side has not even read the last one."""
        if not self._link.is_behind:
            self._link.send(Kind.STATE, 0, state)

    async def close(self) -> None:
        """End the connection, and close what the other side started."""
        self._link.close()
        tasks = self._cancel_all()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, message: Message) -> None:
        kind, number, value = message
        if kind == Kind.PULL:
            if (running := self._running.get(number)) is not None and not running.pulled.done():
                running.pulled.set_result(value)
        elif kind == Kind.START:
            self._start(number, *value)
        elif kind == Kind.CLOSE:
            if (running := self._running.get(number)) is not None:
                running.task.cancel()
        else:
            name, arguments = value
            self._notes[name](*arguments)

    def _start(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        running = self._running[number] = _Running()
        running.task = asyncio.create_task(self._serve(number, running, name, arguments))
        # A task that is cancelled before it begins runs none of its own code.
        running.task.add_done_callback(lambda _: self._running.pop(number, None))

    async def _serve(self, number: int, running: _Running, name: str, arguments: tuple[Any, ...]) -> None:
        send = self._link.send
        try:
            work: Any = self._offers[name](*arguments)
            if inspect.isawaitable(work):
                send(Kind.VALUE, number, await work)
                return
            create_future = asyncio.get_running_loop().create_future
            async with aclosing(work):
                pulled = None
                while True:
                    value = await work.asend(pulled)
                    running.pulled = create_future()
                    send(Kind.VALUE, number, value)
                    pulled = await running.pulled
        except StopAsyncIteration:
            send(Kind.END, number)
        except Exception as error:
            send(Kind.ERROR, number, _packed(error))

    def _lose(self) -> None:
        self._cancel_all()
        self.closed.set()
        self._on_lost()

    def _cancel_all(self) -> list[asyncio.Task[None]]:
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        return tasks


class _Running:
    """A generator or coroutine that the other side started."""

    __slots__ = ("pulled", "task")

    task: asyncio.Task[None]
    pulled: asyncio.Future[Any]
    """Gets what the other side sends to the generator with its next pull."""


_Packed = tuple[type[Exception], tuple[Any, ...], dict[str, Any]]


def _packed(error: Exception) -> _Packed:
    """The parts of an error. One that the other side cannot know is logged here, and replaced."""
    if not isinstance(error, ServiceError | BackendError | DeadlinePassed):
        _log.exception("frontend_request_failed", exc_info=error)
        error = EngineRequestError("the engine's process failed; its log says how")
    return type(error), error.args, error.__dict__


def _unpacked(packed: _Packed) -> Exception:
    # The constructors take other arguments than those that an error has in the end.
    kind, arguments, state = packed
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error
