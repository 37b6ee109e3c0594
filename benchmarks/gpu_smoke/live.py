"""Asks a loaded engine how it behaves, without our servers; prints JSON. A process of its own.

`python -m benchmarks.gpu_smoke.live ENGINE END_ID`. Every question gets an answer, if only the error's name.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.gpu_smoke.surface import MARK
from engines.building.golden_program import load

_PROMPT = [65, 66, 67, 68]
_SECONDS = 60


class Questions:
    """Each method that is in `_ASKED` answers one question."""

    def __init__(self, llm: Any, end_id: int) -> None:
        self._llm = llm
        self._end_id = end_id
        self.notes: dict[str, Any] = {}
        """What differs between machines."""

    async def iterates_over_itself(self) -> bool:
        output = self._submit(max_tokens=4)
        return all([turn is output async for turn in output])

    async def ids_are_cumulative(self) -> bool:
        seen = [list(o.outputs[0].token_ids) async for o in self._submit(max_tokens=8)]
        self.notes["responses of 8 tokens"] = [len(ids) for ids in seen]
        return all(later[: len(ids)] == ids for ids, later in pairwise(seen))

    async def ends_for_length_with(self) -> str:
        output = await self._finished(max_tokens=4)
        return f"{output.outputs[0].finish_reason}, {len(output.outputs[0].token_ids)} tokens"

    async def stop_word_is_taken_back(self) -> str:
        """The third token is made a stop word, and met."""
        ids = list((await self._finished(max_tokens=8)).outputs[0].token_ids)
        output = await self._finished(max_tokens=8, stop_token_ids=[ids[2]], ignore_eos=False)
        completion = output.outputs[0]
        left = "taken back" if list(completion.token_ids) == ids[: ids.index(ids[2])] else "left"
        named = "named" if completion.stop_reason == ids[2] else f"called {completion.stop_reason!r}"
        return f"{completion.finish_reason}, {left}, {named}"

    async def end_id_is_shown(self) -> bool:
        ids = list((await self._finished(max_tokens=8)).outputs[0].token_ids)
        output = await self._finished(max_tokens=8, end_id=ids[2], pad_id=ids[2], ignore_eos=False)
        self.notes["finish at the end id"] = output.outputs[0].finish_reason
        return ids[2] in list(output.outputs[0].token_ids)

    async def abort_ends_with(self) -> str:
        output = self._submit(max_tokens=4000)
        await output.__anext__()
        begun = time.monotonic()
        output.abort()
        at_once = output.outputs[0].finish_reason
        turns = [turn async for turn in output]
        self.notes["seconds from abort to the end"] = round(time.monotonic() - begun, 4)
        self.notes["responses after an abort"] = len(turns)
        return f"{at_once}, then {output.outputs[0].finish_reason}"

    async def greedy_is_repeatable(self) -> bool:
        answers = [list((await self._finished(max_tokens=16)).outputs[0].token_ids) for _ in range(3)]
        return answers[0] == answers[1] == answers[2]

    async def unknown_sampling_field(self) -> str:
        return _raised(lambda: import_module("tensorrt_llm").SamplingParams(random_seed=1))

    async def prompt_that_is_too_long(self) -> str:
        return _raised(lambda: self._submit(prompt=[65] * 100_000, max_tokens=4))

    async def empty_prompt(self) -> str:
        return _raised(lambda: self._submit(prompt=[], max_tokens=4))

    async def statistics_have_our_keys(self) -> bool:
        """Those that `readings.py` reads."""
        await self._finished(max_tokens=4)
        async for stats in self._llm.get_stats_async(timeout=5):
            self.notes["statistics"] = stats
            return all(key in stats for key in ("numQueuedRequests", "kvCacheStats"))
        return False

    async def can_tell_whether_it_is_shut_down(self) -> bool:
        return hasattr(getattr(self._llm, "_executor", None), "is_shutdown")

    async def cached_tokens_are_told(self) -> bool:
        prompt = list(range(64, 64 + 128))
        await self._finished(prompt=prompt, max_tokens=2)
        output = await self._finished(prompt=prompt, max_tokens=2)
        self.notes["cached tokens of a repeated prompt of 128"] = getattr(output, "cached_tokens", None)
        return isinstance(getattr(output, "cached_tokens", None), int)

    async def shut_down_engine_says(self) -> str:
        """The last question."""
        await asyncio.to_thread(self._llm.shutdown)
        return _raised(lambda: self._submit(max_tokens=4))

    async def members(self) -> None:
        output = await self._finished(max_tokens=4)
        for name, kind in {"RequestOutput": output, "CompletionOutput": output.outputs[0]}.items():
            self.notes[f"members of {name}"] = [m for m in dir(kind) if not m.startswith("__")]

    def _submit(self, prompt: list[int] | None = None, **fields: Any) -> Any:
        sampling = {
            "end_id": self._end_id,
            "pad_id": self._end_id,
            "ignore_eos": True,
            "temperature": 1.0,
            "top_k": 1,
            "seed": 0,
            "detokenize": False,
            "add_special_tokens": False,
        }
        return self._llm.generate_async(
            inputs={"prompt_token_ids": _PROMPT if prompt is None else prompt},
            sampling_params=import_module("tensorrt_llm").SamplingParams(**{**sampling, **fields}),
            streaming=True,
        )

    async def _finished(self, **fields: Any) -> Any:
        output = self._submit(**fields)
        async for _ in output:
            pass
        return output


def _raised(act: Callable[[], object]) -> str:
    try:
        act()
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else ""
        return f"{type(error).__name__}: {text[:60]}" if "shut" in text else type(error).__name__
    return "nothing"


async def ask(llm: Any, end_id: int) -> dict[str, Any]:
    questions = Questions(llm, end_id)
    answers: dict[str, Any] = {}
    await _answered(questions.members)
    for question in _ASKED:
        answers[question] = await _answered(getattr(questions, question))
    return {"answers": answers, "notes": questions.notes}


async def _answered(question: Callable[[], Awaitable[object]]) -> object:
    try:
        return await asyncio.wait_for(question(), _SECONDS)
    except asyncio.TimeoutError:
        return f"no answer in {_SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]


_ASKED = [name for name in vars(Questions) if not name.startswith("_") and name not in {"members", "notes"}]
_ASKED.sort(key="shut_down_engine_says".__eq__)

if __name__ == "__main__":
    engine = load(Path(sys.argv[1]))
    document = asyncio.run(ask(engine, int(sys.argv[2])))
    sys.stdout.write(f"\n{MARK}{json.dumps(document, default=str)}\n")
