"""`lodestream top`: one page of a real service's metrics."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from lodestream.bench.command import measure
from lodestream.cli import main
from lodestream.top import Scrape, recent_quantile
from lodestream_common.errors import SettingError
from tests.transports.metered import metered_servers


def buckets(**counts: float) -> Scrape:
    bounds = {"ten": "0.01", "hundred": "0.1", "inf": "+Inf"}
    samples = {("t_bucket", frozenset({("le", bounds[name])})): count for name, count in counts.items()}
    return Scrape(1.0, samples)


def test_quantiles_are_of_what_came_between_two_readings() -> None:
    before, now = buckets(ten=100, hundred=100, inf=100), buckets(ten=100, hundred=110, inf=110)

    assert recent_quantile(before, now, "t", 0.5) == pytest.approx(0.055)
    assert recent_quantile(Scrape(0.0), now, "t", 0.5) == pytest.approx(0.0055)
    assert recent_quantile(now, now, "t", 0.5) is None
    assert recent_quantile(before, buckets(ten=100, hundred=100, inf=104), "t", 0.9) == pytest.approx(0.1)


async def test_a_page_shows_what_a_service_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with metered_servers(tmp_path, max_concurrency=3, simulated_decode_tps=50) as servers:
        load = ["--url", f"grpc://{servers.service}", "--concurrency", "5", "--seconds", "3", "--ignore-eos"]
        loading = asyncio.create_task(asyncio.to_thread(measure, [*load, "--output-tokens", "20"]))
        await servers.until("lodestream_requests_waiting", lambda waiting: waiting == 2)
        await servers.until("lodestream_completion_tokens_total", bool)
        status = await asyncio.to_thread(main, ["top", servers.metrics, "--once", "--interval", "1"])
        await loading

    page = capsys.readouterr().out
    assert status == 0
    for name in ("running", "waiting", "output tok/s", "TTFT p50", "KV used"):
        assert name in page
    row = next(line for line in page.splitlines() if servers.metrics in line)
    assert "ready" in row
    assert "3/3" in row
    rates = [float(number) for number in re.findall(r"\d+\.\d", row.replace(servers.metrics, ""))]
    assert max(rates) > 10


def test_a_server_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "127.0.0.1:1", "--once", "--interval", "0.1"]) == 1
    assert "refused" in capsys.readouterr().out


def test_a_wrong_interval_is_refused() -> None:
    from lodestream.top import run

    with pytest.raises(SettingError, match=r"--interval: .* from 0\.1 to 3600"):
        run(["x:1", "--interval", "0"])
