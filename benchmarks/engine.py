"""Runs the embedded engine library without any of our code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from inference_service.backends.llama_cpp.loading import SPIN_COUNT
from lodestream_common.machine import usable_cores


@dataclass(frozen=True, slots=True)
class EngineArguments:
    """The arguments with which every process loads the engine."""

    model: str
    slots: int
    context: int
    """The context length of each slot, in tokens."""
    prefill_chunk: int
    threads: int
    """0 means one thread for each core."""

    @property
    def words(self) -> list[str]:
        """Return the arguments as words of a command line."""
        return [self.model, *map(str, (self.slots, self.context, self.prefill_chunk, self.threads))]

    @classmethod
    def of(cls, words: Sequence[str]) -> EngineArguments:
        """Parse the words of a command line."""
        model, *numbers = words
        return cls(model, *map(int, numbers))


@contextmanager
def child(module: str, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a module in its own process until the context ends; its input and output are lines."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # The same settings as the service's: the comparison is of the code around the engine.
        env={**os.environ, "GOMP_SPINCOUNT": SPIN_COUNT, **variables},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def load_engine(arguments: EngineArguments) -> Any:
    """Load the engine library's own server object."""
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.n_ctx, params.n_parallel = arguments.context * arguments.slots, arguments.slots
    params.n_batch = params.n_ubatch = max(arguments.prefill_chunk, arguments.slots)
    params.cpuparams.n_threads = arguments.threads or usable_cores()
    params.cache_ram_mib, params.verbosity = 0, -1
    return xllamacpp.Server(params)
