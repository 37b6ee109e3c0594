"""Opens the playground in a headless Chromium of Debian.

As a program it takes the screenshot for the documentation: `python -m tests.support.browser FILE`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Error, Page, Request, async_playwright

from tests.rest_bridge.running import running_bridge
from tests.support.parts import part
from tests.support.service import running_service


@dataclass
class Seen:
    """The requests and console lines of a page."""

    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Warnings and errors on the console, and exceptions."""

    @property
    def hosts(self) -> set[str]:
        """The hosts that received requests from the page."""
        return {urlsplit(request.url).netloc for request in self.requests}

    def add_request(self, request: Request) -> None:
        self.requests.append(request)

    def add_exception(self, error: Error) -> None:
        self.complaints.append(str(error))

    def add_line(self, line: ConsoleMessage) -> None:
        if line.type in ("error", "warning"):
            self.complaints.append(line.text)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run Chromium until the context ends. The test is skipped where it is not installed."""
    program = part("chromium")
    # Chromium has no sandbox for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser, url: str, width: int = 1280, height: int = 900, seen: Seen | None = None
) -> AsyncIterator[Page]:
    """Open a URL in a new profile with access to the clipboard.

    Args:
        browser: it opens the page.
        url: of the page.
        width: of the window, in pixels.
        height: of the window, in pixels.
        seen: collects what the page does.

    """
    async with await browser.new_context(viewport={"width": width, "height": height}) as context:
        await context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = await context.new_page()
        page.set_default_timeout(20_000)
        if seen is not None:
            page.on("request", seen.add_request)
            page.on("pageerror", seen.add_exception)
            page.on("console", seen.add_line)
        await page.goto(url)
        yield page


async def ask(page: Page, text: str) -> None:
    """Send a message and wait for the end of the answer."""
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send").click()
    await ended(page)


async def ended(page: Page) -> None:
    """Wait until no answer is running."""
    await page.locator("#conversation[aria-busy=false]").wait_for()


async def take_screenshot(path: Path) -> None:
    """Take a screenshot with an answer with log probabilities and one with a tool call."""
    async with (
        running_service(simulated_decode_tps=200) as service,
        running_bridge(service.address) as bridge,
        chromium() as browser,
        opened(browser, bridge.url, height=1000) as page,
    ):
        await page.locator("#model option").first.wait_for(state="attached")
        await page.get_by_label("Log probabilities").check()
        await page.locator("summary", has_text="Parameters").click()
        await page.get_by_label("temperature", exact=True).fill("0.2")
        await ask(page, "What is the capital of France? @say<<The capital of France is Paris.>>")
        await ask(page, "And which river runs through it? @say<<The Seine.>>")
        await page.get_by_role("button", name="Copy as curl").click()
        await page.evaluate("scrollTo(0, 0)")
        await page.screenshot(path=path)


if __name__ == "__main__":
    asyncio.run(take_screenshot(Path(sys.argv[1])))
