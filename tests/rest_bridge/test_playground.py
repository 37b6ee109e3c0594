"""The playground in a real browser, on the simulated engine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
import pytest_asyncio
from hatchling.builders.wheel import WheelBuilder
from playwright.async_api import Browser, Page, expect

from lodestream_common.keys import KeyFile, Level
from lodestream_common.parameters import PARAMETERS
from tests.rest_bridge.running import RunningBridge, running_bridge
from tests.support.browser import Seen, ask, chromium, ended, opened
from tests.support.service import Running, running_service

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]
_module = pytest_asyncio.fixture(scope="module", loop_scope="module")
_function = pytest_asyncio.fixture(loop_scope="module")


@_module
async def service() -> AsyncIterator[Running]:
    """A service whose answers take a while."""
    async with running_service(simulated_decode_tps=100) as running:
        yield running


@_module
async def bridge(service: Running) -> AsyncIterator[RunningBridge]:
    async with running_bridge(service.address) as bridge:
        yield bridge


@_module
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture
def seen() -> Seen:
    """The record of the page's requests and console lines."""
    return Seen()


@_function
async def page(browser: Browser, bridge: RunningBridge, seen: Seen) -> AsyncIterator[Page]:
    """The playground. At the end it must have called no other host, and the console must be empty."""
    async with opened(browser, bridge.url, seen=seen) as page:
        await expect(page.get_by_label("Model").locator("option").first).to_be_attached()
        yield page
    assert seen.hosts == {bridge.address}
    assert seen.complaints == []


def last_body(seen: Seen) -> str:
    """The body of the page's last request."""
    return [request for request in seen.requests if request.method == "POST"][-1].post_data or ""


def fact(page: Page, name: str) -> str:
    return f"#facts div:has(dt:text-is('{name}')) dd"


async def copied(page: Page, name: str) -> str:
    """The text that a button copies to the clipboard."""
    await page.get_by_role("button", name=name).click()
    await expect(page.locator("#copied")).to_have_text("Copied.")
    text: str = await page.evaluate("navigator.clipboard.readText()")
    assert text == await page.locator("#copy").text_content()
    return text


async def run(*command: str, **variables: str) -> str:
    """Run a program and return what it prints."""
    env = {**os.environ, **variables}
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_COUNT_LENGTHS = """() => {
    const conversation = document.getElementById("conversation");
    window.lengths = new Set();
    new MutationObserver(() => lengths.add(conversation.textContent.length))
        .observe(conversation, {childList: true, characterData: true, subtree: true});
}"""


async def test_an_answer_streams(page: Page) -> None:
    """The text grows, and the facts come from the server."""
    await page.evaluate(_COUNT_LENGTHS)
    await ask(page, "@say<<" + "word " * 60 + "end>>")

    await expect(page.locator(".turn.assistant .text")).to_have_text("word " * 60 + "end")
    assert await page.evaluate("lengths.size") > 3
    for name in ("TTFT in the browser", "TTFT at the server"):
        await expect(page.locator(fact(page, name))).to_contain_text(" ms")
    await expect(page.locator(fact(page, "speed"))).to_contain_text(" tokens/s")
    await expect(page.locator(fact(page, "ended with"))).to_have_text("stop")
    await expect(page.locator(fact(page, "ignored parameters"))).to_have_text("none")


async def test_the_second_message_continues_the_conversation(page: Page, seen: Seen) -> None:
    await page.get_by_label("System message").fill("Be short.")
    await ask(page, "@say<<one>>")
    await ask(page, "@say<<two>>")

    turns = json.loads(last_body(seen))["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[2]["content"] == "one"


async def make_endless(page: Page) -> None:
    """Make answers take 40 seconds."""
    await page.locator("summary", has_text="Parameters").click()
    await page.get_by_label("ignore_eos", exact=True).select_option("true")
    await page.get_by_label("max_tokens", exact=True).fill("4000")


async def test_the_stop_button_aborts_in_the_engine(page: Page, service: Running) -> None:
    await make_endless(page)
    await page.get_by_label("Message", exact=True).fill("hello")
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator(".turn.assistant .text")).to_contain_text("hello")
    await page.get_by_role("button", name="Stop").click()
    await ended(page)

    await expect(page.locator(fact(page, "ended with"))).to_have_text("stopped by you")
    async with asyncio.timeout(10):
        while service.loaded.backend.stats().running:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_the_playground_can_be_used_with_the_keyboard(page: Page) -> None:
    """Ctrl+Enter sends, Escape stops, and the focus returns to the input."""
    await expect(page.get_by_label("Message", exact=True)).to_be_focused()
    await make_endless(page)
    await page.get_by_label("Message", exact=True).focus()
    await page.keyboard.type("hello")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".turn.assistant .text")).to_contain_text("hello")
    await page.keyboard.press("Escape")
    await ended(page)

    await expect(page.locator(fact(page, "ended with"))).to_have_text("stopped by you")
    await expect(page.get_by_label("Message", exact=True)).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Send")).to_be_focused()
    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


async def test_every_control_has_a_name(page: Page) -> None:
    """Screen readers read these names."""
    nameless = await page.evaluate(
        "[...document.querySelectorAll('input, select, textarea')].filter((one) => !one.labels.length).length"
    )
    assert nameless == 0


async def test_every_parameter_of_the_table_has_a_field(page: Page) -> None:
    for name, parameter in PARAMETERS.items():
        if name in ("tools", "prompt"):
            continue
        control = page.locator(f"#parameter-{name}")
        await expect(control).to_be_attached()
        meaning = page.locator(f"#parameter-{name}-meaning")
        await expect(meaning).to_contain_text(parameter.meaning[:40])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("temperature", "3", "[0, 2]"), ("top_k", "many", "top_k"), ("seed", "9223372036854775808", "seed")],
)
async def test_a_wrong_parameter_shows_the_servers_error(
    page: Page, seen: Seen, name: str, value: str, words: str
) -> None:
    await page.locator("summary", has_text="Parameters").click()
    await page.get_by_label(name, exact=True).fill(value)
    await ask(page, "hello")

    await expect(page.get_by_role("alert")).to_contain_text(words)
    await expect(page.locator(".turn")).to_have_count(0)
    await expect(page.get_by_label("Message", exact=True)).to_have_value("hello")
    # The browser writes this line for each status above 399.
    (line,) = seen.complaints
    assert "status of 400" in line
    seen.complaints.clear()


async def test_large_numbers_stay_exact(page: Page, seen: Seen) -> None:
    await page.locator("summary", has_text="Parameters").click()
    await page.get_by_label("seed", exact=True).fill("9223372036854775807")
    await ask(page, "@say<<yes>>")

    await expect(page.locator(".turn.assistant")).to_contain_text("yes")
    assert '"seed": 9223372036854775807' in last_body(seen)


async def test_an_ignored_parameter_is_named(page: Page) -> None:
    await page.locator("summary", has_text="Parameters").click()
    await page.get_by_label("whitespace", exact=True).select_option("flexible")
    await ask(page, "@say<<yes>>")

    await expect(page.locator(fact(page, "ignored parameters"))).to_have_text("whitespace")


async def test_a_schema_constrains_the_answer(page: Page) -> None:
    await page.locator("summary", has_text="JSON schema").click()
    await page.get_by_role("button", name="Insert an example").last.click()
    await ask(page, '@say<<{"city": "Paris", "continent": "Europe"}>>')

    await expect(page.locator(".turn.assistant .text")).to_have_text(
        '{"city": "Paris", "continent": "Europe"}'
    )


async def test_text_that_is_not_json_is_reported(page: Page) -> None:
    await page.locator("summary", has_text="JSON schema").click()
    await page.get_by_label("JSON Schema of the answer").fill('{"type": ')
    await ask(page, "hello")

    await expect(page.get_by_role("alert")).to_contain_text("JSON schema: the text is not JSON")


async def test_a_tool_is_called_and_its_result_sent(page: Page) -> None:
    await page.locator("summary", has_text="Tools").click()
    await page.get_by_role("button", name="Insert an example").first.click()
    await page.get_by_label("Tool choice").select_option("get_weather")
    await ask(page, "The weather in Paris?")
    await expect(page.locator(".call")).to_contain_text('get_weather({"city":')
    await page.get_by_label("Result of get_weather").fill("@say<<Sunny.>>")
    await page.get_by_label("Tool choice").select_option("none")
    await page.get_by_role("button", name="Send").click()
    await ended(page)

    await expect(page.locator(".turn.assistant").last).to_contain_text("Sunny.")
    for name in ("Copy as Python", "Copy as gRPC"):
        compile(await copied(page, name), name, "exec")


async def test_log_probabilities_are_coloured(page: Page) -> None:
    await page.get_by_label("Log probabilities").check()
    await page.locator("summary", has_text="Parameters").click()
    await page.get_by_label("top_logprobs", exact=True).fill("2")
    await ask(page, "@say<<The capital>>")

    token = page.locator(".turn.assistant .text span").first
    await expect(token).to_have_class("p2")
    assert (await token.get_attribute("title") or "").startswith("50.0 %\n")
    assert len((await token.get_attribute("title") or "").splitlines()) == 3


async def test_markup_is_shown_as_text(page: Page) -> None:
    """Markup in messages and answers does not become elements."""
    await ask(page, "@say<<<img src=x onerror=alert(1)> & <b>bold</b> text>>")

    await expect(page.locator(".turn.assistant .text")).to_have_text(
        "<img src=x onerror=alert(1)> & <b>bold</b> text"
    )
    assert await page.locator(".turn img, .turn b").count() == 0


_QUOTES = """It's "quoted" \\ 'text' $HOME `x` null true 😀 @say<<It's fine>>"""


async def fill_everything(page: Page) -> None:
    await page.locator("summary", has_text="Parameters").click()
    await page.get_by_label("top_k", exact=True).fill("5")
    await page.get_by_label("logit_bias", exact=True).fill('{"50": -1}')
    await page.get_by_label("stop", exact=True).fill('["it\'s"]')
    await page.get_by_label("include_stop_str_in_output", exact=True).select_option("true")
    await page.get_by_label("Log probabilities").check()
    await page.get_by_label("Message", exact=True).fill(_QUOTES)


async def test_the_copied_programs_run(page: Page, service: Running) -> None:
    """Each program gets the same answer as the page."""
    await fill_everything(page)
    python, grpc = await copied(page, "Copy as Python"), await copied(page, "Copy as gRPC")

    assert (await run(sys.executable, "-c", python)).strip() == "It's fine"
    assert (await run(sys.executable, "-c", grpc, LODESTREAM_TARGET=service.address)).strip() == "It's fine"


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
async def test_the_copied_curl_runs(page: Page) -> None:
    await fill_everything(page)
    printed = await run("sh", "-c", await copied(page, "Copy as curl"))

    assert printed.rstrip().endswith("data: [DONE]")
    assert '"content":" fine"' in printed


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_narrow_window_scrolls_only_vertically(
    browser: Browser, bridge: RunningBridge, scheme: str
) -> None:
    """The window has 360 px, all sections are open, and there are long words."""
    async with opened(browser, bridge.url, width=360, height=700) as page:
        await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        await expect(page.get_by_label("Model").locator("option").first).to_be_attached()
        for summary in await page.locator("summary").all():
            await summary.click()
        await ask(page, "@say<<" + "x" * 300 + ">>")
        await copied(page, "Copy as curl")
        width = await page.evaluate("document.documentElement.scrollWidth")
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert width == 360
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


async def test_a_key_is_needed_and_stays_in_memory(
    browser: Browser, service: Running, tmp_path: Path
) -> None:
    """Storage, cookies, the address and copied texts do not contain it."""
    keys = KeyFile(tmp_path / "keys.json")
    _, key = keys.create("me", Level.READ_WRITE)
    async with (
        running_bridge(service.address, keys_file=tmp_path / "keys.json") as bridge,
        opened(browser, bridge.url) as page,
    ):
        await expect(page.get_by_role("alert")).to_contain_text("API key")
        await page.get_by_label("API key").fill(key)
        await page.get_by_label("API key").blur()
        await expect(page.get_by_label("Model").locator("option").first).to_be_attached()
        await ask(page, "@say<<yes>>")
        await expect(page.locator(".turn.assistant")).to_contain_text("yes")
        texts = [await copied(page, f"Copy as {name}") for name in ("curl", "Python", "gRPC")]
        kept = await page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
        )

    assert key not in "".join([*texts, kept])
    assert "$LODESTREAM_API_KEY" in texts[0]


async def test_the_policy_allows_no_inline_script_and_no_other_host(bridge: RunningBridge) -> None:
    async with httpx.AsyncClient(base_url=bridge.url) as http:
        for path in ("/", "/playground/page.js", "/playground/parameters.json"):
            policy = (await http.get(path)).headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
        missing = await http.get("/playground/index.html")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "route_not_found")


async def test_no_playground_disables_the_playground(service: Running) -> None:
    async with (
        running_bridge(service.address, playground=False) as bridge,
        httpx.AsyncClient(base_url=bridge.url) as http,
    ):
        assert [(await http.get(path)).status_code for path in ("/", "/playground/page.js")] == [404, 404]


async def test_the_docs_load_from_no_other_host(browser: Browser, bridge: RunningBridge) -> None:
    """All routes are listed, with an example of a request."""
    seen = Seen()
    async with httpx.AsyncClient(base_url=bridge.url) as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
    async with opened(browser, f"{bridge.url}/docs", seen=seen) as page:
        await expect(page.locator(".opblock")).to_have_count(sum(map(len, paths.values())))
        await page.locator(".opblock", has_text="/v1/chat/completions").first.click()
        await expect(page.locator(".opblock-body").first).to_contain_text("capital of France")

    assert seen.hosts - {""} == {bridge.address}
    assert seen.complaints == []


async def test_a_wheel_has_the_files_of_the_page(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    builder = WheelBuilder(str(root))
    (wheel,) = await asyncio.to_thread(
        lambda: list(builder.build(directory=str(tmp_path), versions=["standard"]))
    )
    packed = {name for name in ZipFile(wheel).namelist() if name.startswith("rest_bridge/static/")}

    files = (root / "rest_bridge" / "static").rglob("*.*")
    assert packed == {str(file.relative_to(root)) for file in files}
    assert "rest_bridge/static/playground/index.html" in packed
