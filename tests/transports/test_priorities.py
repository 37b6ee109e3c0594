"""Priorities of keys, over gRPC and over REST."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lodestream_common.keys import Priority
from tests.support.calls import eventually
from tests.support.keyed_servers import keyed_servers
from tests.transports.feature_requests import completion

BATCH = 8


async def test_interactive_requests_pass_those_that_a_batch_key_sent_earlier(tmp_path: Path) -> None:
    """Keys of one priority would take turns. The batch requests are answered, too."""
    request = completion(max_tokens=8, ignore_eos=True)
    async with keyed_servers(
        tmp_path,
        *("alice", "nightly"),
        priorities={"nightly": Priority.BATCH},
        simulated_decode_tps=20,
        max_concurrency=1,
    ) as served:
        ended: list[str] = []

        async def ask(name: str, way: int) -> None:
            assert (await served.callers[name].ways[way](request)).error is None
            ended.append(name)

        batch = [asyncio.create_task(ask("nightly", number % 4)) for number in range(BATCH)]
        await eventually(lambda: served.transports.service.loaded.admission.waiting == BATCH - 1)
        await asyncio.gather(*(ask("alice", way) for way in range(3)))
        await asyncio.gather(*batch)

    first = ended.index("alice")
    assert ended[first : first + 3] == ["alice"] * 3
    assert ended[first + 3 :], "alice came too late"
