"""Asks a loaded engine how it behaves, without our servers, and prints JSON. It runs in its own process.

`python -m benchmarks.gpu_smoke.live ENGINE END_ID...`. The answer to a question may be the name of an error.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.gpu_smoke.surface import MARK
from engines.facts.engine_directory import EngineConfig, read_engine_config
from inference_service.backends.tensorrt_llm.engine import arguments
from inference_service.backends.tensorrt_llm.library import LOGPROBS_SWITCH, load_library
from inference_service.backends.tensorrt_llm.sampling import BiasTensors

_PROMPT = [65, 66, 67, 68]
_SECONDS = 60


class Questions:
    """Each method that is in `_QUESTIONS` answers one question."""

    def __init__(self, llm: Any, config: EngineConfig, end_ids: Sequence[int]) -> None:
        self._llm = llm
        self._config = config
        self._end_ids = end_ids
        self.notes: dict[str, Any] = {}
        """Values that differ between machines."""

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
        """The third token of the answer is the stop word."""
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

    async def log_probabilities_are(self) -> str:
        completion = (await self._finished(max_tokens=8, scored=True)).outputs[0]
        kinds = "/".join(sorted({type(value).__name__ for value in completion.logprobs}))
        return f"{len(completion.logprobs)} for {len(completion.token_ids)} tokens, {kinds}"

    async def log_probability_of_a_stop_word_stays(self) -> bool:
        ids = list((await self._finished(max_tokens=8)).outputs[0].token_ids)
        output = await self._finished(max_tokens=8, stop_token_ids=[ids[2]], ignore_eos=False, scored=True)
        completion = output.outputs[0]
        return len(completion.logprobs) == len(completion.token_ids) + 1

    async def temperature_shapes_log_probabilities(self) -> bool:
        found = [
            (await self._finished(max_tokens=1, temperature=t, scored=True)).outputs[0] for t in (1.0, 2.0)
        ]
        self.notes["log probabilities at temperature 1 and 2"] = [list(c.logprobs) for c in found]
        return bool(found[0].logprobs != found[1].logprobs)

    async def forbidden_token_comes(self) -> bool:
        first = (await self._finished(max_tokens=1)).outputs[0].token_ids[0]
        output = await self._finished(max_tokens=8, embedding_bias=self._bias({first: -100.0}))
        return first in list(output.outputs[0].token_ids)

    async def preferred_token_comes_everywhere(self) -> bool:
        output = await self._finished(max_tokens=8, embedding_bias=self._bias({70: 100.0}))
        return list(output.outputs[0].token_ids) == [70] * 8

    async def grammar_is_obeyed(self) -> str:
        guide = import_module("tensorrt_llm.llmapi").GuidedDecodingParams(grammar='root ::= "ab"')
        ending = {"ignore_eos": False, "stop_token_ids": list(self._end_ids)}
        output = await self._finished(max_tokens=8, guided_decoding=guide, detokenize=True, **ending)
        return f"{output.outputs[0].text!r}, then {output.outputs[0].finish_reason}"

    async def unknown_sampling_field(self) -> str:
        return _raised(lambda: import_module("tensorrt_llm").SamplingParams(random_seed=1))

    async def prompt_that_is_too_long(self) -> str:
        return await self._refusal([65] * 100_000)

    async def prompt_of_the_whole_context(self) -> str:
        return await self._refusal([65] * self._config.limits.max_seq_len)

    async def prompt_that_leaves_one_token(self) -> str:
        prompt = [65] * (self._config.limits.max_seq_len - 1)
        return str((await self._finished(prompt=prompt, max_tokens=1)).outputs[0].finish_reason)

    async def empty_prompt(self) -> str:
        return _raised(lambda: self._submit(prompt=[], max_tokens=4))

    async def stop_words_count_where_the_end_is_ignored(self) -> bool:
        ids = list((await self._finished(max_tokens=8)).outputs[0].token_ids)
        output = await self._finished(max_tokens=8, stop_token_ids=[ids[2]])
        return bool(output.outputs[0].finish_reason == "stop")

    async def statistics_have_our_keys(self) -> bool:
        """Check the keys that our code reads. Notes how long the asynchronous call blocks the event loop."""
        await self._finished(max_tokens=4)
        stats = await asyncio.to_thread(self._llm.get_stats, timeout=5)
        self.notes["statistics"] = stats[-1] if stats else None
        self.notes["bytes of the KV pool"] = self._pool_bytes(stats[-1]) if stats else None
        begun = time.monotonic()
        turn = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, turn.set_result, None)
        with suppress(StopAsyncIteration):
            await aiter(self._llm.get_stats_async(timeout=0.5)).__anext__()
        await turn
        self.notes["seconds that get_stats_async holds the loop up"] = round(time.monotonic() - begun, 3)
        return bool(stats) and all(key in stats[-1] for key in ("numQueuedRequests", "kvCacheStats"))

    async def can_tell_whether_it_is_shut_down(self) -> bool:
        return hasattr(getattr(self._llm, "_executor", None), "is_shutdown")

    async def cached_tokens_are_reported(self) -> bool:
        prompt = list(range(64, 64 + 128))
        await self._finished(prompt=prompt, max_tokens=2)
        output = await self._finished(prompt=prompt, max_tokens=2)
        cached = getattr(output, "cached_tokens", None)
        self.notes["cached tokens of a repeated prompt of 128"] = cached
        return bool(cached)

    async def shut_down_engine_says(self) -> str:
        """Ask last, since it ends the engine."""
        await asyncio.to_thread(self._llm.shutdown)
        return _raised(lambda: self._submit(max_tokens=4))

    async def members(self) -> None:
        output = await self._finished(max_tokens=4)
        for name, kind in {"RequestOutput": output, "CompletionOutput": output.outputs[0]}.items():
            self.notes[f"members of {name}"] = [m for m in dir(kind) if not m.startswith("__")]

    def _pool_bytes(self, stats: dict[str, Any]) -> int:
        """The size of the KV pool.

        With the GPU's memory and the weights it shows the size of the workspace.
        """
        cache, shape = stats["kvCacheStats"], self._config.shape
        heads = shape.num_key_value_heads // self._config.split.tp_size
        element = 1 if self._config.quantization.kv_cache_quant_algo else 2
        token = 2 * shape.num_hidden_layers * heads * shape.head_size * element
        return int(cache["maxNumBlocks"] * cache["tokensPerBlock"] * token)

    def _bias(self, bias: dict[int, float]) -> Any:
        return BiasTensors(import_module("torch"), self._config.shape.vocab_size).tensor(bias)

    def _submit(self, prompt: list[int] | None = None, *, scored: bool = False, **fields: Any) -> Any:
        sampling = {
            "end_id": self._end_ids[0],
            "pad_id": self._end_ids[0],
            "ignore_eos": True,
            "temperature": 1.0,
            "top_k": 1,
            "seed": 0,
            "detokenize": False,
            "add_special_tokens": False,
        }
        params = import_module("tensorrt_llm").SamplingParams(**{**sampling, **fields})
        if scored:
            setattr(params, LOGPROBS_SWITCH, True)
        return self._llm.generate_async(
            inputs={"prompt_token_ids": _PROMPT if prompt is None else prompt},
            sampling_params=params,
            streaming=True,
        )

    async def _refusal(self, prompt: list[int]) -> str:
        """The error for a prompt, and whether it is raised at once or by the iterator."""
        try:
            output = self._submit(prompt=prompt, max_tokens=4)
        except Exception as error:
            return f"{type(error).__name__}, at once"
        try:
            async for _ in output:
                pass
        except Exception as error:
            return f"{type(error).__name__}, from the iterator"
        return str(output.outputs[0].finish_reason)

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


async def ask(questions: Questions) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    await _answered(questions.members)
    for question in _QUESTIONS:
        answers[question] = await _answered(getattr(questions, question))
    return {"answers": answers, "notes": questions.notes}


async def _answered(question: Callable[[], Awaitable[object]]) -> object:
    try:
        return await asyncio.wait_for(question(), _SECONDS)
    except TimeoutError:
        return f"no answer in {_SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]


_QUESTIONS = [
    name for name in vars(Questions) if not name.startswith("_") and name not in {"members", "notes"}
]
_QUESTIONS.sort(key="shut_down_engine_says".__eq__)

if __name__ == "__main__":
    directory, *ends = sys.argv[1:]
    library, built = load_library(), read_engine_config(Path(directory))
    engine = library.llm(**arguments(Path(directory), built, library))
    document = asyncio.run(ask(Questions(engine, built, [int(end) for end in ends])))
    sys.stdout.write(f"\n{MARK}{json.dumps(document, default=str)}\n")
