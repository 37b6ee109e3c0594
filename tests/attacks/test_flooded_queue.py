"""One key fills the queue with a few requests of many choices, and another key sends small requests.

Before, nine requests of 4 prompts with 8 choices each filled the default queue, and a quiet key was refused
with 429 for 20 of its 40 requests. Now each key has a share of the queue, and a key without waiting requests
always has a place.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.answers import Answer
from tests.support.keyed_servers import keyed_servers
from tests.transports.feature_requests import completion

FLOOD = 9
QUIET = 40
TIMEOUT_SECONDS = 60.0


async def test_a_flooded_queue_does_not_refuse_another_key(tmp_path: Path) -> None:
    """All requests of the other key are answered over both transports while the flood lasts."""
    flood = completion(["a b c"] * 4, n=8, max_tokens=1000, ignore_eos=True)
    small = completion(max_tokens=1)
    async with keyed_servers(tmp_path, "flooder", "quiet", simulated_decode_tps=4000) as served:
        flooder, quiet = served.callers["flooder"], served.callers["quiet"]
        admission = served.transports.service.loaded.admission
        flooding = [asyncio.create_task(flooder.by_grpc(flood)) for _ in range(FLOOD)]
        refused = await _first_errors(flooding)
        assert admission.waiting > 50
        asking = [ask(small) for _ in range(QUIET // 2) for ask in (quiet.by_rest, quiet.by_grpc)]
        answers = await asyncio.wait_for(asyncio.gather(*asking), TIMEOUT_SECONDS)
        waited = admission.waiting
        for task in flooding:
            task.cancel()
        await asyncio.gather(*flooding, return_exceptions=True)

    assert [answer.error for answer in answers] == [None] * QUIET
    assert waited > 0, "the flood was over too soon"
    assert refused == {"queue_full"}


async def _first_errors(tasks: list[asyncio.Task[Answer]]) -> set[str | None]:
    """Wait until a request has ended. Return the error codes of the requests that have."""
    done, _ = await asyncio.wait(tasks, timeout=TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    return {task.result().error for task in done}
