"""One request inside the worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..answers import answer, log_probability
from ..sampling_params import SamplingParams
from ..script import Script, directed
from ..tokenizer import Tokenizer
from .result import ErrorResponse, FinishReason, Response


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the worker receives it."""

    id: int
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    max_tokens: int
    end_id: int
    """-1: no token ends the answer."""
    vocabulary_size: int
    cache_salt: str | None = None

    @property
    def stop_ids(self) -> frozenset[int]:
        """The stop ids, which also end an answer that ignores the end of sequence."""
        return frozenset(self.params.stop_token_ids or ())


class Sequence:
    """The state of a request inside the worker.

    Raises:
        ValueError: the prompt's directive cannot be read.

    """

    def __init__(self, request: Request, script: Script, tokenizer: Tokenizer) -> None:
        self.request = request
        self._script = directed(script, tokenizer.decode(request.prompt_ids))
        self.flaw: str | None = None
        """The reason why an engine step with this request fails."""
        self._answer = self._begin_answer(tokenizer)
        self._position = 0
        self._due = 0.0
        self._let_go_at: float | None = None
        self._stop_word_met = False

    def begin(self) -> None:
        """Take a slot and start the prefill."""
        speed = self._script.prefill_tps
        self._due = time.monotonic() + (len(self.request.prompt_ids) / speed if speed else 0.0)

    def cancel(self) -> None:
        self._let_go_at = time.monotonic() + self._script.ignore_abort

    @property
    def wakes_at(self) -> float:
        """The time of the next step."""
        stalled = self._position == self._script.stall_at
        due = float("inf") if stalled else self._due
        return min(due, float("inf") if self._let_go_at is None else self._let_go_at)

    def step(self) -> Response | ErrorResponse:
        """Produce the response that is due."""
        if self._let_go_at is not None and time.monotonic() >= self._let_go_at:
            return self._end(FinishReason.CANCELLED)
        if self._stop_word_met:
            return self._end(FinishReason.STOP_WORDS)
        fault = self._fault()
        if fault is not None:
            return fault
        self._due += 1 / self._script.tps if self._script.tps else 0.0
        token = next(self._answer)
        if token == self.request.end_id:
            # The end id itself is never part of the output.
            return self._end(FinishReason.END_ID)
        return self._emit(token)

    def _begin_answer(self, tokenizer: Tokenizer) -> Iterator[int]:
        try:
            return answer(self.request, self._script, tokenizer)
        except Exception as error:
            self.flaw = str(error)
            return iter(())

    def _emit(self, token: int) -> Response:
        self._position += 1
        # A stop word is part of the output until the final response removes it.
        self._stop_word_met = token in self.request.stop_ids
        full = self._position == self.request.max_tokens and not self._stop_word_met
        finish = FinishReason.LENGTH if full else None
        log_prob = log_probability(token, self.request.params)
        return Response(self.request.id, (token,), finish, log_prob)

    def _end(self, finish: FinishReason) -> Response:
        return Response(self.request.id, (), finish)

    def _fault(self) -> Response | ErrorResponse | None:
        script, position = self._script, self._position
        if position == script.die_at:
            return ErrorResponse(self.request.id, "the double was scripted to crash", fatal=True)
        if position == script.fail_at:
            return ErrorResponse(self.request.id, "the double was scripted to fail this request")
        if position == script.timeout_at:
            return self._end(FinishReason.TIMED_OUT)
        return self._end(FinishReason.CANCELLED) if position == script.cancel_at else None
