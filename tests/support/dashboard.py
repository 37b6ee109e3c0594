"""Pictures of the panels of the dashboard and of `lodestream top`, from servers under load.

As a program it writes those of the documentation: `python -m tests.support.dashboard DIRECTORY`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from lodestream.bench.command import measure
from lodestream.bench.plots import Series, plot
from lodestream.top import Page
from tests.support.browser import chromium, opened
from tests.support.parts import Prometheus, running_prometheus
from tests.transports.metered import MeteredServers, metered_servers

DASHBOARD = Path(__file__).parents[2] / "deploy" / "observability" / "dashboard.json"
_RATE_INTERVAL = "10s"
_UNITS = {"short": "", "s": "seconds", "reqps": "requests/s", "percentunit": "share"}
_STYLE = """
body { margin: 16px; font: 13px sans-serif; color: #1f2937 }
main { display: grid; grid-template-columns: repeat(3, 1fr); gap: 10px }
section { border: 1px solid #d1d5db; border-radius: 6px; padding: 6px }
h2 { margin: 2px 6px; font-size: 13px }
svg text { font: 12px sans-serif }
svg text:not(.key) { fill: #4b5563 }
svg text.key { font-weight: bold; stroke: white; stroke-width: 4px; paint-order: stroke }
.grid line { stroke: #e5e7eb }
.empty { padding: 90px 0; text-align: center; color: #6b7280 }
"""
_LOADS = ((3, 15), (10, 20), (4, 20))
"""The loads one after the other: requests that are open at any time, and seconds. Four run at once."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of the dashboard with the data of a period."""

    title: str
    unit: str
    series: list[Series]


def queries() -> list[tuple[str, str]]:
    """The title of the panel and the expression of each query of the dashboard."""
    return [(panel["title"], _filled(target["expr"])) for panel in _panels() for target in panel["targets"]]


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return panels


def _filled(expression: str) -> str:
    """An expression of the dashboard with values in the place of Grafana's variables."""
    return expression.replace("$__rate_interval", _RATE_INTERVAL).replace("$model", ".*")


async def read_panels(prometheus: Prometheus, start: float) -> list[Panel]:
    """Run the queries of all panels over the time since `start`, in seconds since the Unix epoch."""
    panels = []
    for panel in _panels():
        series = []
        for target in panel["targets"]:
            for found in await prometheus.query_range(_filled(target["expr"]), start):
                values = [(at - start, float(value)) for at, value in found["values"] if value != "NaN"]
                series.append(Series(_legend(target, found["metric"]), values, is_line=True))
        unit = panel["fieldConfig"]["defaults"]["unit"]
        panels.append(Panel(panel["title"], _UNITS[unit], [one for one in series if one.points]))
    return panels


def _legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), target["legendFormat"])


def page_of(panels: list[Panel]) -> str:
    """An HTML page with the plots of panels, three in a row."""
    sections = "".join(f"<section><h2>{escape(panel.title)}</h2>{_body(panel)}</section>" for panel in panels)
    return f'<!doctype html><meta charset="utf-8"><style>{_STYLE}</style><main>{sections}</main>'


def _body(panel: Panel) -> str:
    if not panel.series:
        return '<div class="empty">No data: the simulated engine has no KV cache</div>'
    # A plot has a legend only if it has several series.
    name = panel.series[0].name if len(panel.series) == 1 else panel.unit
    return plot("", "seconds", name, panel.series)


async def take_pictures(directory: Path) -> None:
    """Put two services under load; write `dashboard.png` and `top.svg`."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        async with (
            metered_servers(Path(first), simulated_decode_tps=40) as servers,
            metered_servers(Path(second), simulated_decode_tps=25) as others,
            running_prometheus(Path(first), _targets(servers)) as prometheus,
        ):
            await prometheus.until("up == 1")
            start = time.time()
            async with _background(servers), _background(others):
                top, _ = await asyncio.gather(_read_top(servers, others), _load(servers))
            panels = await read_panels(prometheus, start)
    _write_top(top, directory / "top.svg")
    async with chromium() as browser, opened(browser, "about:blank", 1500, 1000) as page:
        await page.set_content(page_of(panels))
        await page.screenshot(path=directory / "dashboard.png", full_page=True)


def _targets(servers: MeteredServers) -> dict[str, str]:
    return {"lodestream-service": servers.metrics, "lodestream-bridge": servers.bridge}


async def _load(servers: MeteredServers) -> None:
    for concurrency, seconds in _LOADS:
        options = ["--url", f"http://{servers.bridge}", "--prompt-tokens", "uniform:20:200", "--ignore-eos"]
        options += ["--output-tokens", "uniform:20:80", "--warmup", "0"]
        options += ["--concurrency", str(concurrency), "--seconds", str(seconds)]
        await asyncio.to_thread(measure, options)


@asynccontextmanager
async def _background(servers: MeteredServers) -> AsyncIterator[None]:
    """Requests that are refused, and callers that leave."""

    async def ask() -> None:
        url = f"http://{servers.bridge}/v1/completions"
        body: dict[str, Any] = {"model": "smollm2-135m-instruct", "prompt": "Hello", "max_tokens": 100}
        async with httpx.AsyncClient() as http:
            while True:
                await http.post(url, json={**body, "temperature": 9})
                with contextlib.suppress(httpx.ReadTimeout):
                    await http.post(url, json=body, timeout=1.5)

    task = asyncio.create_task(ask())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _read_top(*servers: MeteredServers) -> Page:
    """The page of `lodestream top` during the second load."""
    page = Page([one.metrics for one in servers], ssl.create_default_context())
    await asyncio.sleep(_LOADS[0][1] + 8)
    await asyncio.to_thread(page.read)
    await asyncio.sleep(2)
    await asyncio.to_thread(page.read)
    return page


def _write_top(page: Page, path: Path) -> None:
    console = Console(record=True, width=140, file=io.StringIO(), force_terminal=True)
    console.print(page.render())
    drawn = console.export_svg(title="lodestream top")
    # Documents load nothing from other hosts: the reader's own monospaced font is used.
    path.write_text(re.sub(r"@font-face {.*?}\s*", "", drawn, flags=re.DOTALL))


if __name__ == "__main__":
    asyncio.run(take_pictures(Path(sys.argv[1])))
