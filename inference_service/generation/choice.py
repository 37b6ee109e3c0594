"""One choice of a generation: engine steps in, events out.

A token passes, in this order: detokenizing, the stop matcher, the content filter, the parser of tool
calls. Each is an object of its own, and what a request does not use is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from inference_service.backends.types import EngineFinish, EngineStep, TokenLogprob
from inference_service.generation.events import ChoiceEvent, Delta, Finished, StopCause
from inference_service.generation.scores import TokenNames, scored
from inference_service.generation.stops import StopMatcher
from inference_service.generation.text import HoldBuffer, IncrementalDecoder, Piece
from inference_service.generation.tools.types import ToolCallDelta

_CAUSES = {
    EngineFinish.END_OF_SEQUENCE: StopCause.END_OF_SEQUENCE,
    EngineFinish.MAX_TOKENS: StopCause.MAX_TOKENS,
}


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

    def feed(self, text: str) -> ToolOutput: ...

    def finish(self) -> ToolOutput:
        """What is left at the end of the text."""
        ...


@dataclass(frozen=True, slots=True)
class Stages:
    """What the text of a choice passes. Whatever is None costs nothing."""

    stops: Sequence[str] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop: bool = False
    filter: Filter | None = None
    tools: Tools | None = None


class ChoiceStream:
    """Composes the stages for one choice."""

    def __init__(self, detokenizer: TokenNames, stages: Stages, index: int = 0) -> None:
        self._detokenizer = detokenizer
        self._decoder = IncrementalDecoder(detokenizer)
        self._stages = stages
        self._matcher = StopMatcher(stages.stops, include=stages.include_stop)
        self._buffer = HoldBuffer()
        self._open_ids: list[int] = []
        self._open_logprobs: list[TokenLogprob] = []
        self._index = index
        self.finished: Finished | None = None

    def on_step(self, step: EngineStep) -> Iterator[ChoiceEvent]:
        """Take one engine step in; yield what may leave."""
        end_id = self._end_of_sequence_id(step)
        ids = step.token_ids if end_id is None else step.token_ids[:-1]
        count = step.token_count - (step.finish is EngineFinish.END_OF_SEQUENCE)
        if len(ids) == count:
            self._take_ids(ids, step.logprobs)
        else:
            self._take_text(Piece(step.text or "", ids, count, step.logprobs[: len(ids)]))
        if self.finished is None and step.finish is not None:
            self.finished = Finished(self._index, _CAUSES[step.finish], stop_token_id=end_id)
        yield from self._leave()

    def cut(self, cause: StopCause) -> Iterator[ChoiceEvent]:
        """End the choice here, for a cause that is not the engine's."""
        self.finished = Finished(self._index, cause)
        yield from self._leave()

    @staticmethod
    def _end_of_sequence_id(step: EngineStep) -> int | None:
        ended = step.finish is EngineFinish.END_OF_SEQUENCE
        return step.token_ids[-1] if ended and step.token_ids else None

    def _take_ids(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> None:
        for place, token_id in enumerate(token_ids):
            if token_id in self._stages.stop_token_ids:
                self._finish(StopCause.STOP_TOKEN, stop_token_id=token_id)
                return
            text = self._decoder.feed(token_id)
            self._open_ids.append(token_id)
            self._open_logprobs += logprobs[place : place + 1]
            if self._decoder.is_mid_character:
                # The token belongs to the text that completes the character.
                self._add(Piece(text))
            else:
                self._add(self._close(text))
            if self.finished is not None:
                return

    def _close(self, text: str) -> Piece:
        """The tokens of a character that is complete now, with its text."""
        piece = Piece(text, self._open_ids, len(self._open_ids), self._open_logprobs)
        self._open_ids, self._open_logprobs = [], []
        return piece

    def _take_text(self, piece: Piece) -> None:
        """Take a step in whose ids are not all known: its text cannot be divided among them."""
        self._add(piece)
        met = next((i for i in piece.token_ids if i in self._stages.stop_token_ids), None)
        if met is not None and self.finished is None:
            self._finish(StopCause.STOP_TOKEN, stop_token_id=met)

    def _add(self, piece: Piece) -> None:
        self._buffer.add(piece)
        self._matcher.feed(piece.text)
        if self._matcher.match is not None:
            self._finish(StopCause.STOP_SEQUENCE, stop_sequence=self._matcher.match.sequence)

    def _finish(
        self, cause: StopCause, *, stop_sequence: str | None = None, stop_token_id: int | None = None
    ) -> None:
        self.finished = Finished(self._index, cause, stop_sequence, stop_token_id)

    def _leave(self) -> Iterator[ChoiceEvent]:
        piece = self._release()
        if self._stages.filter is not None:
            piece = self._filtered(piece, self._stages.filter)
        delta = self._delta(piece) if self._stages.tools is None else self._parsed(piece, self._stages.tools)
        if delta is not None:
            yield delta
        if self.finished is not None:
            yield self.finished

    def _release(self) -> Piece:
        held_for_good = self.finished is not None and self.finished.cause is StopCause.STOP_SEQUENCE
        if self.finished is None or held_for_good:
            return self._buffer.release(self._matcher.safe)
        # The tokens of a character that stays unfinished have no more text to wait for.
        self._buffer.add(self._close(""))
        return self._buffer.release_all()

    def _filtered(self, piece: Piece, content_filter: Filter) -> Piece:
        passed = content_filter.feed(piece)
        if self.finished is not None and content_filter.blocked is None:
            passed = passed + content_filter.flush()
        if content_filter.blocked is not None:
            rule = content_filter.blocked.rule
            self.finished = Finished(self._index, StopCause.CONTENT_FILTER, filter_rule=rule)
        return passed

    def _parsed(self, piece: Piece, tools: Tools) -> Delta | None:
        output = tools.feed(piece.text)
        content, deltas = output.content, [*output.deltas]
        if tools.is_complete and self.finished is None:
            self._finish(StopCause.TOOL_CALLS)
        if self.finished is not None:
            rest = tools.finish()
            content, deltas = content + rest.content, [*deltas, *rest.deltas]
            self.finished = self.finished.calling() if tools.called else self.finished
        return self._delta(Piece(content, piece.token_ids, piece.token_count, piece.logprobs), deltas)

    def _delta(self, piece: Piece, deltas: Sequence[ToolCallDelta] = ()) -> Delta | None:
        if not piece and not deltas:
            return None
        scores = scored(self._detokenizer, piece.logprobs) if piece.logprobs else ()
        return Delta(self._index, piece.text, piece.token_ids, piece.token_count, scores, deltas)
