"""Turns the engine steps of one choice into events, and finds stop sequences in its text.

The detokenizer turns tokens into text, and the token buffer holds both. Stop sequences, then the content
filter, report how much of the text is safe; the parser of tool calls divides what is safe into content and
calls. The pipeline has only the parts that the request uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from inference_service.backends.types import EngineFinish, EngineStep
from inference_service.output.content_filter.output import OutputFilter
from inference_service.output.events import ChoiceEvent, Finished, ScoredToken, StopCause, TokenNames, scored
from inference_service.output.token_buffer import Detokenizer, TokenBuffer
from inference_service.output.tool_calls import ContentSpan, ToolCallParser
from inference_service.prompt.conversation import ToolCallDelta

_CAUSES = {
    EngineFinish.END_OF_SEQUENCE: StopCause.END_OF_SEQUENCE,
    EngineFinish.MAX_TOKENS: StopCause.MAX_TOKENS,
}
_ENDS = frozenset({StopCause.END_OF_SEQUENCE, StopCause.TOOL_CALLS})
"""Causes by which the model itself ends; every other cause cuts its output."""


class ChoicePipeline:
    """Composes the stages for one choice. What it reports is the same however the tokens come in steps.

    Args:
        names: text and bytes of the tokens.
        index: of the choice.
        stops: the stop sequences.
        stop_token_ids: tokens that end the choice.
        include_stop: the stop sequence that ends the text stays at its end.
        content_filter: for this choice alone; None: there is none.
        tools: for this choice alone; None: there are no tools.

    """

    def __init__(
        self,
        names: TokenNames,
        index: int = 0,
        *,
        stops: Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        include_stop: bool = False,
        whole_tokens: bool = False,
        content_filter: OutputFilter | None = None,
        tools: ToolCallParser | None = None,
    ) -> None:
        self._names = names
        self._detokenizer = Detokenizer(names)
        self._buffer = TokenBuffer(index)
        self._stops = StopSequences(stops, include=include_stop) if stops else None
        self._whole_tokens = whole_tokens
        self._stop_token_ids = frozenset(stop_token_ids)
        self._filter = content_filter
        self._tools = tools
        self._index = index
        self._is_over = False
        self.finished: Finished | None = None

    @property
    def may_end_choice(self) -> bool:
        """Whether a stage may end the choice before the engine does."""
        return bool(self._stops or self._stop_token_ids or self._filter or self._tools)

    def on_step(self, step: EngineStep) -> Iterator[ChoiceEvent]:
        """Take one engine step in; yield what can be sent."""
        end_id = self._end_of_sequence_id(step)
        ids = step.token_ids if end_id is None else step.token_ids[:-1]
        count = step.token_count - (step.finish is EngineFinish.END_OF_SEQUENCE)
        scores = scored(self._names, step.logprobs[: len(ids)]) if step.logprobs else ()
        if len(ids) == count:
            self._add_tokens(ids, scores)
        else:
            self._add_text(step.text or "", ids, count, scores)
        self._advance()
        if self.finished is None and step.finish is not None:
            self._finish(_CAUSES[step.finish], stop_token_id=end_id)
            self._advance()
        yield from self._events()

    def cut(self, cause: StopCause) -> Iterator[ChoiceEvent]:
        """End the choice here, for a cause that is not the engine's."""
        self._finish(cause)
        self._advance()
        yield from self._events()

    @staticmethod
    def _end_of_sequence_id(step: EngineStep) -> int | None:
        ended = step.finish is EngineFinish.END_OF_SEQUENCE
        return step.token_ids[-1] if ended and step.token_ids else None

    def _add_tokens(self, token_ids: Sequence[int], logprobs: Sequence[ScoredToken]) -> None:
        detokenizer, buffer = self._detokenizer, self._buffer
        # Tokens after the last permitted call do not count: the engine may not have made them yet.
        ends_early = self._tools is not None and self._tools.max_calls is not None
        for place, token_id in enumerate(token_ids):
            if place and ends_early:
                self._advance()
                if self.finished is not None:
                    return
            if token_id in self._stop_token_ids:
                self._finish(StopCause.STOP_TOKEN, stop_token_id=token_id)
                return
            text = detokenizer.feed(token_id)
            scores = logprobs[place : place + 1] if logprobs else ()
            buffer.add(text, (token_id,), 1, scores, ends_within_character=detokenizer.is_mid_character)
            if self._stops is not None and self._is_stopped(text, self._stops):
                return

    def _add_text(
        self, text: str, token_ids: Sequence[int], count: int, logprobs: Sequence[ScoredToken]
    ) -> None:
        """Take a step in whose ids are not all known: its text cannot be divided among them."""
        self._buffer.add(text, token_ids, count, logprobs)
        if self._stops is not None and self._is_stopped(text, self._stops):
            return
        met = next((i for i in token_ids if i in self._stop_token_ids), None)
        if met is not None:
            self._finish(StopCause.STOP_TOKEN, stop_token_id=met)

    def _is_stopped(self, text: str, stops: StopSequences) -> bool:
        stops.feed(text)
        if stops.match is None:
            return False
        self._finish(StopCause.STOP_SEQUENCE, stop_sequence=stops.match.sequence)
        return True

    def _finish(
        self, cause: StopCause, *, stop_sequence: str | None = None, stop_token_id: int | None = None
    ) -> None:
        self.finished = Finished(self._index, cause, stop_sequence, stop_token_id)

    def _advance(self) -> None:
        """Settle the text that stop sequences and filter report as safe, and parse it."""
        if self._is_over:
            return
        safe = self._safe_of_stops()
        if self._filter is not None:
            self._filter.examine(self._buffer, safe, final=self.finished is not None)
            safe = self._filter.safe
            if self._filter.blocked is not None:
                rule = self._filter.blocked.rule
                self.finished = Finished(self._index, StopCause.CONTENT_FILTER, filter_rule=rule)
        text = self._buffer.settle(safe)
        if self._tools is not None:
            self._parse(text, self._tools)
        self._is_over = self.finished is not None

    def _safe_of_stops(self) -> int:
        if self.finished is not None and self.finished.cause is not StopCause.STOP_SEQUENCE:
            # No stop sequence and no character will be completed any more.
            self._buffer.finish_tokens()
        elif self._stops is not None:
            if not self._keeps_tokens(self._stops):
                return self._stops.safe
            self._buffer.finish_tokens()
        return self._buffer.total

    def _keeps_tokens(self, stops: StopSequences) -> bool:
        """Whether the tokens of a complete stop sequence are released whole, the last one included."""
        if not self._whole_tokens or stops.match is None:
            return False
        return stops.safe > stops.match.start or self._buffer.is_within_token(stops.match.start)

    def _parse(self, text: str, tools: ToolCallParser) -> None:
        tools.feed(text)
        if tools.is_complete and self.finished is None:
            self._finish(StopCause.TOOL_CALLS)
        if self.finished is not None:
            tools.finish(cut=self.finished.cause not in _ENDS)
            self.finished = replace(self.finished, calls_tools=tools.called, cuts_call=tools.is_cut)

    def _events(self) -> Iterator[ChoiceEvent]:
        if self._tools is None:
            delta = self._buffer.release()
        else:
            content, calls = self._divide(self._tools)
            delta = replace(self._buffer.release(self._tools.safe), text=content, tool_calls=calls)
        if delta:
            yield delta
        if self.finished is not None:
            yield self.finished

    def _divide(self, tools: ToolCallParser) -> tuple[str, Sequence[ToolCallDelta]]:
        """Divide the settled text into content and what is new of calls, one delta for each call."""
        content = ""
        calls: list[ToolCallDelta] = []
        for part in tools.take():
            text = self._buffer.settled_text(part.start, part.end)
            if isinstance(part, ContentSpan):
                content += text
            elif calls and calls[-1].index == part.index:
                calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + text)
            else:
                calls.append(ToolCallDelta(part.index, part.id, part.name, text))
        return content, tuple(calls)


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop sequence that is complete."""

    sequence: str
    start: int
    """Offset of its first character in the whole text."""


class StopSequences:
    """Reports how much of a growing text is safe to release, and where a stop sequence ends it.

    `safe` is the length of the text that can be released: nothing before it can become part of a stop
    sequence. Where two sequences are complete with the same character, the longer one counts.

    Args:
        sequences: the stop sequences, none empty.
        include: the sequence that matches is released too.

    """

    def __init__(self, sequences: Sequence[str], *, include: bool = False) -> None:
        self._include = include
        self._sequences = tuple(dict.fromkeys(sequences))
        self._tail = ""
        """The longest end of the text that a stop sequence may begin with."""
        self._total = 0
        self.safe = 0
        self.match: StopMatch | None = None

    def feed(self, text: str) -> None:
        """Take the next piece of text. After a match nothing more may be fed."""
        window = self._tail + text
        start = self._total - len(self._tail)
        self._total += len(text)
        self.match = self._find(window, start)
        if self.match is not None:
            end = self.match.start + len(self.match.sequence)
            self.safe = end if self._include else self.match.start
            return
        self._tail = window[self._held_from(window) :]
        self.safe = self._total if self._include else self._total - len(self._tail)

    def _find(self, window: str, start: int) -> StopMatch | None:
        """Return the match that ends first, the longest of those that end together."""
        found: StopMatch | None = None
        first_end = len(window) + 1
        for sequence in self._sequences:
            at = window.find(sequence)
            if at < 0:
                continue
            end = at + len(sequence)
            if end < first_end or (found and end == first_end and len(sequence) > len(found.sequence)):
                found, first_end = StopMatch(sequence, start + at), end
        return found

    def _held_from(self, window: str) -> int:
        """Return the offset of the longest end of `window` that is the beginning of a stop sequence."""
        held = len(window)
        for sequence in self._sequences:
            at = window.find(sequence[0], max(0, len(window) - len(sequence) + 1), held)
            while at >= 0 and not sequence.startswith(window[at:]):
                at = window.find(sequence[0], at + 1, held)
            if at >= 0:
                held = at
        return held
