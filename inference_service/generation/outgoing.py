"""What a step of the engine lets go of, put together as one event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from inference_service.backends.types import TokenLogprob
from inference_service.generation.events import Delta
from inference_service.generation.scores import TokenNames, scored
from inference_service.generation.text import Piece
from inference_service.generation.tools.types import ToolCallDelta


class Outgoing:
    """Gathers pieces of text and of tool calls for one choice.

    Args:
        names: of the tokens.
        index: of the choice.

    """

    def __init__(self, names: TokenNames, index: int) -> None:
        self._names = names
        self._index = index
        self._reset()

    def add(self, piece: Piece, calls: Iterable[ToolCallDelta] = ()) -> None:
        """Append what comes next."""
        self._text += piece.text
        self._ids += piece.token_ids
        self._count += piece.token_count
        self._logprobs += piece.logprobs
        for call in calls:
            self._add_call(call)

    def take(self) -> Delta | None:
        """Everything since the last time; None for nothing."""
        if not (self._text or self._count or self._calls):
            return None
        scores = scored(self._names, self._logprobs) if self._logprobs else ()
        delta = Delta(self._index, self._text, self._ids, self._count, scores, tuple(self._calls))
        self._reset()
        return delta

    def _reset(self) -> None:
        self._text = ""
        self._ids: list[int] = []
        self._count = 0
        self._logprobs: list[TokenLogprob] = []
        self._calls: list[ToolCallDelta] = []

    def _add_call(self, call: ToolCallDelta) -> None:
        last = self._calls[-1] if self._calls else None
        if last is None or last.index != call.index:
            self._calls.append(call)
        else:
            self._calls[-1] = replace(last, arguments=last.arguments + call.arguments)
