"""One choice of a generation: engine steps in, events out.

A token passes, in this order: detokenizing, the stop matcher, the content filter, the parser of tool
calls. Each is an object of its own, and what a request does not use is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from inference_service.backends.types import EngineFinish, EngineStep, TokenLogprob
from inference_service.generation.events import ChoiceEvent, Finished, StopCause
from inference_service.generation.outgoing import Outgoing
from inference_service.generation.scores import TokenNames
from inference_service.generation.stages import Filter, Stages, Tools
from inference_service.generation.stops import StopMatcher
from inference_service.generation.text import HoldBuffer, IncrementalDecoder, Piece

_CAUSES = {
    EngineFinish.END_OF_SEQUENCE: StopCause.END_OF_SEQUENCE,
    EngineFinish.MAX_TOKENS: StopCause.MAX_TOKENS,
}
_ENDS = frozenset({StopCause.END_OF_SEQUENCE, StopCause.TOOL_CALLS})
"""The model is done; every other cause cuts what it was about to write."""


class ChoiceStream:
    """Composes the stages for one choice. What it says is the same however the tokens come in steps."""

    def __init__(self, detokenizer: TokenNames, stages: Stages, index: int = 0) -> None:
        self._decoder = IncrementalDecoder(detokenizer)
        self._stages = stages
        self._matcher = StopMatcher(stages.stops, include=stages.include_stop)
        self._buffer = HoldBuffer()
        self._outgoing = Outgoing(detokenizer, index)
        self._open_ids: list[int] = []
        self._open_logprobs: list[TokenLogprob] = []
        self._index = index
        self._is_over = False
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
        self._advance()
        if self.finished is None and step.finish is not None:
            self.finished = Finished(self._index, _CAUSES[step.finish], stop_token_id=end_id)
            self._advance()
        yield from self._leave()

    def cut(self, cause: StopCause) -> Iterator[ChoiceEvent]:
        """End the choice here, for a cause that is not the engine's."""
        self.finished = Finished(self._index, cause)
        self._advance()
        yield from self._leave()

    @staticmethod
    def _end_of_sequence_id(step: EngineStep) -> int | None:
        ended = step.finish is EngineFinish.END_OF_SEQUENCE
        return step.token_ids[-1] if ended and step.token_ids else None

    def _take_ids(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> None:
        for place, token_id in enumerate(token_ids):
            if place and self._stages.may_end_it:
                # What comes after that end is not there, as if it had not been made yet.
                self._advance()
                if self.finished is not None:
                    return
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

    def _advance(self) -> None:
        """Send what the stop matcher lets go of through the other stages."""
        if self._is_over:
            return
        piece = self._release()
        if self._stages.filter is not None:
            piece = self._filtered(piece, self._stages.filter)
        if self._stages.tools is None:
            self._outgoing.add(piece)
        else:
            self._parse(piece, self._stages.tools)
        self._is_over = self.finished is not None

    def _leave(self) -> Iterator[ChoiceEvent]:
        delta = self._outgoing.take()
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

    def _parse(self, piece: Piece, tools: Tools) -> None:
        output = tools.feed(piece.text)
        if tools.is_complete and self.finished is None:
            self._finish(StopCause.TOOL_CALLS)
        self._outgoing.add(replace(piece, text=output.content), output.deltas)
        if self.finished is not None:
            rest = tools.finish(cut=self.finished.cause not in _ENDS)
            self._outgoing.add(Piece(rest.content), rest.deltas)
            self.finished = replace(self.finished, calls_tools=tools.called, cuts_call=tools.is_cut)
