"""One key fills the queue with a few requests of many choices, and another asks for a little.

Before, nine requests of 4 prompts with 8 choices each filled the default queue, and a quiet key was refused
with 429 for 20 of its 40 requests. Now each key has a share, and a key with nothing waiting has a place.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.answers import Answer
from tests.support.keyed import keyed_doors
from tests.transports.asked import completion

FLOOD = 9
QUIET = 40
PATIENCE = 60.0


async def test_a_quiet_key_is_never_refused(tmp_path: Path) -> None:
    """None of its requests, over both transports and at once, while the flood lasts."""
    flood = completion(["a b c"] * 4, n=8, max_tokens=1000, ignore_eos=True)
    small = completion(max_tokens=1)
    async with keyed_doors(tmp_path, "flooder", "quiet", simulated_decode_tps=4000) as served:
        flooder, quiet = served.callers["flooder"], served.callers["quiet"]
        admission = served.transports.service.loaded.admission
        flooding = [asyncio.create_task(flooder.by_grpc(flood)) for _ in range(FLOOD)]
        refused = await _ends_of_the_refused(flooding)
        assert admission.waiting > 50
        asking = [ask(small) for _ in range(QUIET // 2) for ask in (quiet.by_rest, quiet.by_grpc)]
        answers = await asyncio.wait_for(asyncio.gather(*asking), PATIENCE)
        waited = admission.waiting
        for task in flooding:
            task.cancel()
        await asyncio.gather(*flooding, return_exceptions=True)

    assert [answer.error for answer in answers] == [None] * QUIET
    assert waited > 0, "the flood was over too soon"
    assert refused == {"queue_full"}


async def _ends_of_the_refused(tasks: list[asyncio.Task[Answer]]) -> set[str | None]:
    """The errors of those that are refused at once, at least one."""
    done, _ = await asyncio.wait(tasks, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    return {task.result().error for task in done}
