"""One choice of a generation: engine steps in, events out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inference_service.backends.types import EngineFinish, EngineStep
from inference_service.generation.events import ChoiceEvent, Delta, Finished, StopCause
from inference_service.generation.stops import StopMatcher
from inference_service.generation.text import Detokenizer, HoldBuffer, IncrementalDecoder, Piece

_CAUSES = {
    EngineFinish.END_OF_SEQUENCE: StopCause.END_OF_SEQUENCE,
    EngineFinish.MAX_TOKENS: StopCause.MAX_TOKENS,
}


class ChoiceStream:
    """Composes detokenizing, stop tokens, stop sequences and hold-back for one choice."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        *,
        stops: Sequence[str] = (),
        stop_token_ids: frozenset[int] = frozenset(),
        index: int = 0,
    ) -> None:
        self._decoder = IncrementalDecoder(detokenizer)
        self._matcher = StopMatcher(stops)
        self._buffer = HoldBuffer()
        self._stop_token_ids = stop_token_ids
        self._open_ids: list[int] = []
        self._index = index
        self.finished: Finished | None = None

    def on_step(self, step: EngineStep) -> Iterator[ChoiceEvent]:
        """Take one engine step in; yield what may leave."""
        end_id = self._end_of_sequence_id(step)
        ids = step.token_ids if end_id is None else step.token_ids[:-1]
        count = step.token_count - (step.finish is EngineFinish.END_OF_SEQUENCE)
        if len(ids) == count:
            self._take_ids(ids)
        else:
            self._take_text(step.text or "", ids, count)
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

    def _take_ids(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            if token_id in self._stop_token_ids:
                self._finish(StopCause.STOP_TOKEN, stop_token_id=token_id)
                return
            text = self._decoder.feed(token_id)
            self._open_ids.append(token_id)
            if self._decoder.is_mid_character:
                # The token belongs to the text that completes the character.
                self._add(text, (), 0)
            else:
                self._add(text, self._open_ids, len(self._open_ids))
                self._open_ids = []
            if self.finished is not None:
                return

    def _take_text(self, text: str, token_ids: Sequence[int], token_count: int) -> None:
        """Take a step in whose ids are not all known: its text cannot be divided among them."""
        self._add(text, token_ids, token_count)
        met = next((i for i in token_ids if i in self._stop_token_ids), None)
        if met is not None and self.finished is None:
            self._finish(StopCause.STOP_TOKEN, stop_token_id=met)

    def _add(self, text: str, token_ids: Sequence[int], token_count: int) -> None:
        self._buffer.add(Piece(text, token_ids, token_count))
        self._matcher.feed(text)
        if self._matcher.match is not None:
            self._finish(StopCause.STOP_SEQUENCE, stop_sequence=self._matcher.match.sequence)

    def _finish(
        self, cause: StopCause, *, stop_sequence: str | None = None, stop_token_id: int | None = None
    ) -> None:
        self.finished = Finished(self._index, cause, stop_sequence, stop_token_id)

    def _leave(self) -> Iterator[ChoiceEvent]:
        release = self._release()
        if release:
            yield Delta(self._index, release.text, release.token_ids, release.token_count)
        if self.finished is not None:
            yield self.finished

    def _release(self) -> Piece:
        held_for_good = self.finished is not None and self.finished.cause is StopCause.STOP_SEQUENCE
        if self.finished is None or held_for_good:
            return self._buffer.release(self._matcher.safe)
        # The tokens of a character that stays unfinished have no more text to wait for.
        self._buffer.add(Piece("", self._open_ids, len(self._open_ids)))
        return self._buffer.release_all()
