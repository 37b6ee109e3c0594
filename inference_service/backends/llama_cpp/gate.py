"""Who may enter the engine, and when."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Protocol, TypeVar


class Entrant(Protocol):
    """A request, as the gate sees it."""

    prefill_left: int
    """Prompt tokens that the engine has yet to compute."""
    has_begun: bool
    """Whether the engine has said that it works on the prompt: it is part of the step that runs now."""


EntrantT = TypeVar("EntrantT", bound=Entrant)


class PrefillGate(Generic[EntrantT]):
    """Lets requests into the engine, first come first served, once it begins them with the next step.

    llama.cpp fills each step with the prompts of its slots in the order of the slots. A request behind a
    long prompt is not touched, gives no sign, and so cannot be aborted until that prompt is read. The gate
    keeps it outside, where leaving costs nothing, until there is room for it.

    Args:
        slots: requests that the engine runs at once; an aborted one counts until the engine let go.
        batch_tokens: tokens of one step. Each request inside may take one of them, prompts the rest.

    """

    def __init__(self, *, slots: int, batch_tokens: int) -> None:
        self._slots = slots
        self._batch_tokens = batch_tokens
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
        while self._waiting:
            entrant, turn = self._waiting[0]
            if not turn.done():
                if not self._has_room_for(entrant):
                    return
                self.inside.add(entrant)
                turn.set_result(None)
            self._waiting.popleft()

    def refuse_all(self, error: Exception) -> None:
        """Turn away everyone who waits."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)

    def _has_room_for(self, entrant: Entrant) -> bool:
        if len(self.inside) >= self._slots:
            return False
        room = self._batch_tokens - len(self.inside)
        ahead = self._tokens_ahead(room)
        return ahead == 0 or ahead + entrant.prefill_left <= room

    def _tokens_ahead(self, room: int) -> int:
        """Prompt tokens that will be left when the step that runs now is over."""
        begun = sum(e.prefill_left for e in self.inside if e.has_begun)
        waiting = sum(e.prefill_left for e in self.inside if not e.has_begun)
        return max(0, begun - room) + waiting
