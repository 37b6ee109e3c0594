"""Who may enter the engine, and when."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Protocol, TypeVar


class Entrant(Protocol):
    """A request, as the gate sees it."""

    prefill_left: int
    """Prompt tokens that the engine has yet to compute."""


EntrantT = TypeVar("EntrantT", bound=Entrant)


class PrefillGate(Generic[EntrantT]):
    """Lets requests into the engine, first come first served, once it can begin them at once.

    llama.cpp fills each batch with the prompts of its slots in the order of the slots. A request behind
    a long prompt is not touched, gives no sign, and so cannot be aborted until that prompt is read. The
    gate keeps it outside, where leaving costs nothing, until the next batch has room for it.

    Args:
        slots: requests that the engine runs at once; an aborted one counts until the engine let go.
        chunk: prompt tokens that always fit into a batch.

    """

    def __init__(self, *, slots: int, chunk: int) -> None:
        self._slots = slots
        self._chunk = chunk
        self._waiting: deque[tuple[EntrantT, asyncio.Future[None]]] = deque()
        self.inside: set[EntrantT] = set()

    async def enter(self, entrant: EntrantT) -> None:
        """Wait for the turn. Cancelling the wait leaves nothing behind."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entrant, turn))
        self.advance()
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come in the same moment.
            self.leave(entrant)
            raise

    def leave(self, entrant: EntrantT) -> None:
        """The engine has let go of this request."""
        self.inside.discard(entrant)
        self.advance()

    def advance(self) -> None:
        """Let in all that fit by now."""
        while self._waiting and self._has_room():
            entrant, turn = self._waiting.popleft()
            if not turn.done():
                self.inside.add(entrant)
                turn.set_result(None)

    def refuse_all(self, error: Exception) -> None:
        """Turn away everyone who waits."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)

    def _has_room(self) -> bool:
        return len(self.inside) < self._slots and sum(e.prefill_left for e in self.inside) < self._chunk
