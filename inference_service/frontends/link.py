"""The connection between a frontend and the engine's process: batches of messages over a socket pair.

Both ends are processes of one service on one machine, and the socket between them is an anonymous pair that a
process passes to its child: nobody else can write to it. So messages are pickled. All messages that one turn
of the event loop makes travel together.
"""

from __future__ import annotations

import asyncio
import copyreg
import pickle
import socket
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, cast

import structlog

from inference_service.backends.types import EngineStep, TokenLogprob
from inference_service.constraints.grammar import Grammar

_HEAD = struct.Struct("<I")
"""Before each batch of messages: its bytes."""

_log = structlog.get_logger(__name__)


class Kind(IntEnum):
    """The kind of a message. Its other two parts are the number of a generator, and a value."""

    START = 0
    """Make a generator and pull its first value; the value is a name and arguments."""
    PULL = 1
    """Pull the next value; the value is what `asend` takes."""
    CLOSE = 2
    NOTE = 3
    """Call a function, without an answer; the value is a name and arguments."""
    VALUE = 4
    END = 5
    ERROR = 6
    """The generator, or the call, failed; the value is what the other side needs to make it again."""
    STATE = 7


Message = tuple[int, int, Any]


def _step_parts(step: EngineStep) -> tuple[type[EngineStep], tuple[Any, ...]]:
    parts = (step.token_ids, step.token_count, step.text, step.finish, step.cached_tokens, step.logprobs)
    return EngineStep, parts


def _logprob_parts(logprob: TokenLogprob) -> tuple[type[TokenLogprob], tuple[Any, ...]]:
    return TokenLogprob, (logprob.token_id, logprob.logprob, logprob.top)


def _grammar_parts(grammar: Grammar) -> tuple[type[Grammar], tuple[Any, ...]]:
    return Grammar, (dict(grammar.rules), grammar.ignored)


# By default dataclasses with slots take five times as long, and a grammar also sends what it has cached.
copyreg.pickle(EngineStep, _step_parts)
copyreg.pickle(TokenLogprob, _logprob_parts)
copyreg.pickle(Grammar, _grammar_parts)


def dumped(value: object) -> bytes:
    """A large value as bytes, made in another thread than the loop's.

    Raises:
        RecursionError: it is nested too deep.

    """
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def loaded(data: bytes) -> Any:
    """The value that `dumped` got."""
    return pickle.loads(data)  # noqa: S301  see the module


class Link(asyncio.Protocol):
    """One end of the connection: collects messages and sends those of one turn of the loop together.

    Args:
        on_message: takes each message that arrives.
        on_lost: is called once the other end is gone.

    """

    _transport: asyncio.Transport

    def __init__(self, on_message: Callable[[Message], None], on_lost: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._outbox: list[Message] = []
        self._received = bytearray()
        self.heard = self._loop.time()
        """The time at which the other end sent something last, on the loop's clock, in seconds."""

    @property
    def is_behind(self) -> bool:
        """Whether the other end has not read what was sent."""
        return self._transport.get_write_buffer_size() > 0

    def send(self, kind: Kind, number: int, value: Any = None) -> None:
        """Send a message soon, in the order of these calls; without effect once the other end is gone."""
        if not self._outbox:
            self._loop.call_soon(self.flush)
        self._outbox.append((kind.value, number, value))

    def flush(self) -> None:
        """Send what was collected now."""
        batch, self._outbox = self._outbox, []
        if not batch or self._transport.is_closing():
            return
        try:
            data = pickle.dumps(batch, pickle.HIGHEST_PROTOCOL)
        except Exception:
            # A lost message would leave its receiver waiting: rather end both sides.
            _log.exception("link_failed")
            self._transport.abort()
        else:
            self._transport.write(_HEAD.pack(len(data)) + data)

    def close(self) -> None:
        """End the connection after what was collected."""
        self.flush()
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to send."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end."""
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        """Take the messages of each batch that is complete."""
        self.heard = self._loop.time()
        received = self._received
        received += data
        place = 0
        while len(received) - place >= _HEAD.size:
            begin = place + _HEAD.size
            end = begin + _HEAD.unpack_from(received, place)[0]
            if len(received) < end:
                break
            batch: list[Message] = pickle.loads(received[begin:end])  # noqa: S301  see the module
            place = end
            for message in batch:
                self._on_message(message)
        del received[:place]


async def connect(
    ours: socket.socket, on_message: Callable[[Message], None], on_lost: Callable[[], None]
) -> Link:
    """Make a link of one end of a socket pair."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(lambda: Link(on_message, on_lost), sock=ours)
    return link
