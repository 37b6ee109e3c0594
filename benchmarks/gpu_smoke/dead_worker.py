"""Kills a worker process of an engine, and prints as JSON which parts of the library report it, and when.

`python -m benchmarks.gpu_smoke.dead_worker ENGINE` runs in its own process, since MPI may end it too. As far
as is known, no caller gets an error before the next request.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu_smoke.surface import MARK
from engines.verification.golden_program import load

_QUIET_SECONDS = 10.0
_REQUEST_SECONDS = 60.0


async def watch(llm: Any) -> dict[str, Any]:
    """Run a request, kill the worker while nothing runs, wait, and run another."""
    await _outcome(llm)
    workers = psutil.Process().children(recursive=True)
    if not workers:
        return {"workers": 0}
    # MPI's own processes are much smaller than the worker with the engine.
    max(workers, key=lambda worker: worker.memory_info().rss).kill()
    seconds_without_traffic = await _shut_down_after(llm, _QUIET_SECONDS)
    begun = time.monotonic()
    outcome = await _outcome(llm)
    return {
        "workers": len(workers),
        "seconds until it is known, without traffic": seconds_without_traffic,
        "next request": outcome,
        "seconds of the next request": round(time.monotonic() - begun, 2),
        "seconds until it is known, after it": await _shut_down_after(llm, _QUIET_SECONDS),
    }


async def _shut_down_after(llm: Any, timeout: float) -> float | None:
    """Return the seconds until the library reports the shutdown; None if it does not within the timeout."""
    begun = time.monotonic()
    while time.monotonic() - begun < timeout:
        executor = getattr(llm, "_executor", None)
        if executor is None or executor.is_shutdown():
            return round(time.monotonic() - begun, 2)
        await asyncio.sleep(0.05)
    return None


async def _outcome(llm: Any) -> str:
    sampling = import_module("tensorrt_llm").SamplingParams(max_tokens=4, end_id=-1, pad_id=0, top_k=1)
    try:
        output = llm.generate_async(inputs=[65, 66], sampling_params=sampling, streaming=True)
        await asyncio.wait_for(output.aresult(), _REQUEST_SECONDS)
    except TimeoutError:
        return f"no answer in {_REQUEST_SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return str(output.outputs[0].finish_reason)


if __name__ == "__main__":
    document = asyncio.run(watch(load(Path(sys.argv[1]))))
    sys.stdout.write(f"\n{MARK}{json.dumps(document, default=str)}\n")
    sys.stdout.flush()
    # A normal exit would wait for the dead worker.
    os._exit(0)
