"""`deploy/observability/`: rules and dashboard, tested with real Prometheus programs and both servers."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from html import escape
from pathlib import Path

import pytest

from lodestream.bench.command import measure
from tests.support.dashboard import page_of, queries, read_panels
from tests.support.parts import part, running_prometheus
from tests.transports.metered import metered_servers

DIRECTORY = Path(__file__).parents[2] / "deploy" / "observability"


@pytest.mark.parametrize("words", [["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]])
def test_rules_are_valid_and_each_alert_has_a_test(words: list[str]) -> None:
    done = subprocess.run(
        [part("promtool"), *words], cwd=DIRECTORY, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    rules, tests = ((DIRECTORY / name).read_text() for name in ("rules.yml", "rules_test.yml"))
    assert set(re.findall(r"alert: (\w+)", rules)) == set(re.findall(r"alertname: (\w+)", tests))


def test_the_example_of_a_configuration_is_valid() -> None:
    command = [part("promtool"), "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=DIRECTORY, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


# The simulated engine has no KV cache.
_EMPTY = {"KV cache in use"}


async def test_each_query_of_the_dashboard_has_data(tmp_path: Path) -> None:
    async with metered_servers(tmp_path) as servers:
        targets = {"lodestream-service": servers.metrics, "lodestream-bridge": servers.bridge}
        async with running_prometheus(tmp_path, targets, DIRECTORY / "rules.yml") as prometheus:
            await prometheus.until("up == 1")
            load = ["--url", f"http://{servers.bridge}", "--concurrency", "4", "--seconds", "4"]
            await asyncio.to_thread(measure, [*load, "--output-tokens", "8", "--ignore-eos"])
            await prometheus.until("rate(lodestream_completion_tokens_total[10s]) > 0")

            panels = await read_panels(prometheus, time.time() - 4)
            assert {panel.title for panel in panels if not panel.series} == _EMPTY
            for title, expression in queries():
                assert escape(title) in page_of(panels)
                found = await prometheus.query(expression)
                assert bool(found) is (title not in _EMPTY), f"{title}: {expression}"
            assert await prometheus.query("lodestream:errors:ratio_rate5m")
            assert await prometheus.query('ALERTS{alertname=~"Lodestream.*"}') == []
