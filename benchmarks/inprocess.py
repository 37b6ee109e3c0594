"""The yardstick: the embedded engine library called directly, in a process of its own.

Speaks lines of JSON: a job `{"concurrency": c, "tokens": n, "prompts": [...]}` on stdin, its result
`{"seconds": s, "tokens": t, "first": [...]}` on stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from inference_service.backends.llama_cpp.loading import SPIN_COUNT


@dataclass(frozen=True, slots=True)
class Result:
    """What one job took."""

    tokens_per_second: float
    first_token_seconds: list[float]


@dataclass(frozen=True, slots=True)
class EngineArguments:
    """How the engine is loaded, in every process alike."""

    model: str
    slots: int
    context: int
    """Tokens of each slot."""
    prefill_chunk: int
    threads: int
    """0: one for each core."""

    @property
    def words(self) -> list[str]:
        """For a command line."""
        return [self.model, *map(str, (self.slots, self.context, self.prefill_chunk, self.threads))]

    @classmethod
    def of(cls, words: Sequence[str]) -> EngineArguments:
        """Read `words` back."""
        model, *numbers = words
        return cls(model, *map(int, numbers))


class Yardstick:
    """The parent's side of the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, prompts: list[list[int]], tokens: int) -> Result:
        """Generate `tokens` tokens for every prompt at once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Result(answer["tokens"] / answer["seconds"], answer["first"])


@contextmanager
def yardstick(engine: EngineArguments) -> Iterator[Yardstick]:
    """Start the process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.inprocess", *engine.words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # As the service sets it: what is compared is the way to the engine, not the engine's settings.
        env={**os.environ, "GOMP_SPINCOUNT": SPIN_COUNT},
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield Yardstick(process)
    finally:
        process.kill()
        process.wait()


def load_engine(engine: EngineArguments) -> Any:
    """The engine library's own server object."""
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = engine.model
    params.n_ctx, params.n_parallel = engine.context * engine.slots, engine.slots
    params.n_batch = params.n_ubatch = max(engine.prefill_chunk, engine.slots)
    params.cpuparams.n_threads = engine.threads or len(os.sched_getaffinity(0))
    params.cache_ram_mib, params.verbosity = 0, -1
    return xllamacpp.Server(params)


def request(prompt: list[int], tokens: int) -> dict[str, Any]:
    """What is asked of the engine: this many tokens of greedy text, streamed."""
    return {
        "prompt": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "cache_prompt": False,
        "temperature": 0,
    }


def _serve(arguments: EngineArguments) -> None:
    engine = load_engine(arguments)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(engine, **json.loads(line))), flush=True)


def _run(engine: Any, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    counts, first = [0] * len(prompts), [0.0] * len(prompts)
    began = time.perf_counter()

    def one(number: int) -> None:
        def on_chunk(chunk: dict[str, Any]) -> bool:
            if chunk["choices"][0]["text"] and not first[number]:
                first[number] = time.perf_counter() - began
            if usage := chunk.get("usage"):
                counts[number] = usage["completion_tokens"]
            return False

        engine.handle_completions(request(prompts[number], tokens), on_chunk)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - began, "tokens": sum(counts), "first": first}


if __name__ == "__main__":
    _serve(EngineArguments.of(sys.argv[1:]))
