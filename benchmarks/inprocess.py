"""The yardstick: the embedded engine library called directly, in a process of its own.

Speaks lines of JSON: a job `{"concurrency": c, "tokens": n, "prompts": [...]}` on stdin, its result
`{"seconds": s, "tokens": t, "first": [...]}` on stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.engine import EngineArguments, Result, child, load_engine, request


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
    with child("benchmarks.inprocess", *engine.words) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield Yardstick(process)


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
