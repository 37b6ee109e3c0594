"""Implements the backend interface with a simulated engine that has a set speed and scripted faults."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from operator import length_hint

from inference_service.backends.base import (
    Backend,
    BackendStartError,
    EngineDeadError,
    EngineRequestError,
    Steps,
)
from inference_service.backends.simulated.answer import TextCodec, answer, made_up_logprobs
from inference_service.backends.types import (
    BackendDescription,
    BackendStats,
    EngineFinish,
    EngineRequest,
    EngineStep,
    TokenLogprob,
)
from inference_service.constraints.grammar import Grammar

_IGNORED_CANCEL_SECONDS = 1.0
_GATHERED_TPS = 1000.0
"""Tokens a second that an engine without delays makes while its reader gathers."""


@dataclass(slots=True)
class _Pace:
    """The times at which tokens become ready: a fixed rate, counted from the end of the prefill."""

    tokens_per_second: float
    began: float = field(default_factory=time.monotonic)
    emitted: int = 0

    async def next_batch(self, gather: float, left: int) -> int:
        """Wait for the next token; how many are ready by then.

        Args:
            gather: seconds to wait in any case, unless the last token comes earlier.
            left: tokens up to that one, 1 or more.

        """
        self.emitted += 1
        if not self.tokens_per_second:
            await asyncio.sleep(0)
            return 1 + int(gather * _GATHERED_TPS)
        now = time.monotonic()
        due = self.began + self.emitted / self.tokens_per_second
        last = due + (left - 1) / self.tokens_per_second
        await asyncio.sleep(max(0.0, due - now, min(gather, last - now)))
        late = int((time.monotonic() - due) * self.tokens_per_second)
        self.emitted += late
        return 1 + late


class SimulatedBackend(Backend):
    """The simulated engine."""

    def __init__(
        self,
        codec: TextCodec,
        *,
        context_length: int,
        max_concurrency: int,
        prefill_tps: float = 0.0,
        decode_tps: float = 0.0,
        token_cost: float = 0.0,
        faults: str = "",
    ) -> None:
        """Args: speeds in tokens a second, 0 for no delay; `token_cost` in seconds of CPU.

        Raises:
            BackendStartError: `faults` cannot be read.

        """
        try:
            self._faults = Faults.parse(faults)
        except ValueError as error:
            raise BackendStartError(f"simulated_fault: {error}") from None
        self._codec = codec
        self._prefill_tps = prefill_tps
        self._decode_tps = decode_tps
        self._token_cost = token_cost
        self._description = BackendDescription(
            "simulated", context_length, max_concurrency, codec.vocabulary_size
        )
        self._running = 0
        self._untaken = 0
        """Requests whose caller has not pulled the next step yet: the engine waits for the caller."""
        self._pending_aborts = 0
        self._alive = True
        self._last_step = time.monotonic()

    async def start(self) -> BackendDescription:
        if self._faults.crash_at_start:
            raise BackendStartError("the simulated engine is configured to crash at start")
        return self._description

    def check_grammar(self, grammar: Grammar) -> None:
        """It follows every grammar."""

    async def generate(self, request: EngineRequest) -> Steps:
        faults = self._faults_of(request)
        self._enter()
        finished = False
        try:
            await self._prefill(request)
            async with aclosing(self._decode(request, faults)) as steps:
                gather = None
                while not finished:
                    step = await steps.asend(gather)
                    finished = step.finish is not None
                    gather = yield step
        finally:
            self._leave(keep_slot=faults.ignore_cancel and not finished)

    def stats(self) -> BackendStats:
        age = time.monotonic() - self._last_step if self._running > self._untaken else 0.0
        return BackendStats(self._running + self._pending_aborts, self._pending_aborts, self._alive, age)

    async def close(self) -> None:
        self._alive = False

    def _enter(self) -> None:
        if not self._alive:
            raise EngineDeadError("the simulated engine is dead")
        if self._running == self._untaken:
            self._last_step = time.monotonic()
        self._running += 1

    def _leave(self, *, keep_slot: bool) -> None:
        self._running -= 1
        if keep_slot:
            self._pending_aborts += 1
            asyncio.get_running_loop().call_later(_IGNORED_CANCEL_SECONDS, self._end_ignored_abort)

    def _end_ignored_abort(self) -> None:
        self._pending_aborts -= 1

    async def _prefill(self, request: EngineRequest) -> None:
        if self._prefill_tps:
            await asyncio.sleep(len(request.prompt_ids) / self._prefill_tps)
            self._last_step = time.monotonic()

    async def _decode(self, request: EngineRequest, faults: Faults) -> Steps:
        if request.grammar is None:
            answer_ids = answer(self._codec, request)
        else:
            # The text of a large grammar takes a second to find.
            answer_ids = await asyncio.to_thread(answer, self._codec, request)
        pace = _Pace(self._decode_tps)
        position, gather = 0, None
        while True:
            most = request.max_tokens - position
            left = faults.before(position, min(most, length_hint(answer_ids, most)))
            wanted = min(await pace.next_batch(gather or 0.0, left), most)
            await self._cause_fault(faults, position)
            ids = list(islice(answer_ids, faults.before(position, wanted)))
            _burn(self._token_cost * len(ids))
            cached = 0 if position == 0 else None
            position += len(ids)
            self._last_step = time.monotonic()
            finish = self._finish(ids, position, request)
            self._untaken += 1
            try:
                logprobs = self._logprobs(ids, request)
                gather = yield EngineStep(ids, len(ids), None, finish, cached, logprobs)
            finally:
                self._untaken -= 1
                self._last_step = time.monotonic()
            if finish is not None:
                return

    def _logprobs(self, ids: Sequence[int], request: EngineRequest) -> Sequence[TokenLogprob]:
        if request.logprobs is None:
            return ()
        return made_up_logprobs(ids, request.logprobs, self._codec.vocabulary_size)

    def _finish(self, ids: Sequence[int], position: int, request: EngineRequest) -> EngineFinish | None:
        if not request.ignore_eos and ids[-1] in self._codec.eos_ids:
            return EngineFinish.END_OF_SEQUENCE
        return EngineFinish.MAX_TOKENS if position >= request.max_tokens else None

    async def _cause_fault(self, faults: Faults, position: int) -> None:
        """Cause the fault of this token, if there is one."""
        if not self._alive or position == faults.die_at:
            self._alive = False
            raise EngineDeadError("the simulated engine died")
        if position == faults.fail_at:
            raise EngineRequestError("the simulated engine is configured to fail this request")
        if position == faults.stall_at:
            await asyncio.Event().wait()

    def _faults_of(self, request: EngineRequest) -> Faults:
        try:
            found = directed_faults(self._codec.decode(request.prompt_ids))
        except ValueError as error:
            raise EngineRequestError(str(error)) from None
        return self._faults if found is None else found.or_else(self._faults)


def _burn(seconds: float) -> None:
    """Compute for so many seconds of this thread's CPU time."""
    if seconds:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass


_DIRECTIVE = re.compile(r"@sim\(([a-z_=0-9, ]*)\)")


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults to cause, and before which token."""

    fail_at: int | None = None
    stall_at: int | None = None
    die_at: int | None = None
    ignore_cancel: bool = False
    crash_at_start: bool = False

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read `fail_at=3, ignore_cancel`.

        Raises:
            ValueError: naming the unknown or malformed fault.

        """
        found: dict[str, int | bool] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, value = part.partition("=")
            if name in ("ignore_cancel", "crash_at_start") and not value:
                found[name] = True
            elif name in ("fail_at", "stall_at", "die_at") and value.isdigit():
                found[name] = int(value)
            else:
                raise ValueError(f"unknown fault {part!r}")
        return cls(**found)  # type: ignore[arg-type]

    def before(self, position: int, wanted: int) -> int:
        """The number of wanted tokens from this position on, up to the next fault."""
        places = (self.fail_at, self.stall_at, self.die_at)
        return min(
            [wanted, *(place - position for place in places if place is not None and place > position)]
        )

    def or_else(self, other: Faults) -> Faults:
        """These faults, or the other ones where there are none."""
        return other if self == Faults() else self


def directed_faults(prompt: str) -> Faults | None:
    """The faults that a directive in the prompt sets; None without a directive.

    Raises:
        ValueError: naming the unknown or malformed fault.

    """
    found = _DIRECTIVE.search(prompt)
    return None if found is None else Faults.parse(found.group(1))
