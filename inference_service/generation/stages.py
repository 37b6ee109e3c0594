"""What the text of a choice passes on its way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inference_service.generation.text import Piece
from inference_service.generation.tools.types import ToolCallDelta


class FilterMatch(Protocol):
    """What a filter met."""

    @property
    def rule(self) -> str:
        """Its name."""
        ...


class Filter(Protocol):
    """The content filter of one choice."""

    @property
    def blocked(self) -> FilterMatch | None:
        """What ended the choice, if anything; what came before it has been released."""
        ...

    def feed(self, piece: Piece) -> Piece:
        """Take text in; what may leave."""
        ...

    def flush(self) -> Piece:
        """What is left at the end of the text."""
        ...


class ToolOutput(Protocol):
    """What became of a piece of text."""

    @property
    def content(self) -> str: ...

    @property
    def deltas(self) -> Sequence[ToolCallDelta]: ...


class Tools(Protocol):
    """The parser of tool calls of one choice."""

    @property
    def called(self) -> bool:
        """Whether a whole call was made."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether as many calls were made as are allowed."""
        ...

    @property
    def is_cut(self) -> bool:
        """Whether the text was cut within a call."""
        ...

    def feed(self, text: str) -> ToolOutput: ...

    def finish(self, *, cut: bool) -> ToolOutput:
        """What is left at the end of the text; `cut`: the model did not end it."""
        ...


@dataclass(frozen=True, slots=True)
class Stages:
    """What the text of a choice passes. Whatever is None costs nothing."""

    stops: Sequence[str] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop: bool = False
    filter: Filter | None = None
    tools: Tools | None = None

    @property
    def may_end_it(self) -> bool:
        """Whether a stage behind the stop matcher may end the choice."""
        return self.filter is not None or self.tools is not None
