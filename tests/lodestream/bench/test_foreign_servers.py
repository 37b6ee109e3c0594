"""`lodestream bench` against foreign servers, which misbehave or are not there, and with wrong options."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lodestream.bench.command import run
from lodestream.bench.targets import TargetOptions, make_target
from lodestream.bench.workload import BenchRequest
from lodestream_common.errors import OperatorError, SettingError


def test_a_scenario_with_an_unknown_option_is_refused(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.toml"
    scenario.write_text("concurency = 2\n")

    with pytest.raises(SettingError, match=r"concurency: unknown option.*concurrency"):
        run(["--scenario", str(scenario)])


@pytest.mark.parametrize(
    "words",
    [
        ["--url", "ftp://x"],
        ["--concurrency", "0"],
        ["--rate", "-1"],
        ["--seconds", "2", "--warmup", "2"],
        ["--sweep", "a"],
        ["--sweep", "1", "--compare", "http://127.0.0.1:1"],
        ["--body", "[]"],
        ["--slo", "fast"],
        ["--token-ids", "9:3"],
        ["--nonsense"],
    ],
)
def test_wrong_options_are_refused_before_any_load(words: list[str]) -> None:
    with pytest.raises(SettingError):
        run(words)


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(OperatorError, match=r"127\.0\.0\.1:1"):
        run(["--url", "http://127.0.0.1:1", "--requests", "1"])


Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def foreign_server(respond: Respond) -> AsyncIterator[str]:
    """A server that reads each request and answers as `respond` does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        await reader.readexactly(length)
        await respond(writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await ended.wait()


def chunk(text: str) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text.encode()), text.encode())


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TEXT = 'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'


async def outcome_of(*parts: bytes, timeout: float = 5.0) -> Any:
    async def respond(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)

    options = TargetOptions("m", "k", True, True, 0, False, timeout, {})
    async with foreign_server(respond) as url:
        target = make_target(url, options)
        outcome = await target.send(BenchRequest("hi", 4), 0.0)
        await target.close()
        return outcome


async def test_events_of_foreign_servers_are_parsed_at_any_cut() -> None:
    """Lines that end with CR LF, comments, names of events, pieces cut within an event."""
    usage = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9}}\n\n'
    events = ": ping\n\nevent: x\n" + TEXT + TEXT.replace("\n", "\r\n") + usage + "data: [DONE]\n\n"
    parts = [chunk(events[i : i + 17]) for i in range(0, len(events), 17)]

    outcome = await outcome_of(HEAD, *parts, b"0\r\n\r\n")

    assert (outcome.error, len(outcome.arrivals), outcome.prompt_tokens, outcome.output_tokens) == (
        "",
        2,
        3,
        9,
    )


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([HEAD, chunk(TEXT)], "cut_short"),
        ([HEAD, chunk(TEXT), b"0\r\n\r\n"], "cut_short"),
        ([HEAD, chunk("data: [DONE]\n\n"), b"0\r\n\r\n"], "no_output"),
        ([HEAD, chunk("data: {\n\n"), b"0\r\n\r\n"], "not_json"),
        ([HEAD, chunk('data: {"error":{"code":"engine_died"}}\n\n'), b"0\r\n\r\n"], "engine_died"),
        ([b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"], "http_503"),
        ([b"nonsense\r\n\r\n"], "connection"),
        ([], "connection"),
    ],
)
async def test_broken_answers_are_failures_by_kind(parts: list[bytes], error: str) -> None:
    assert (await outcome_of(*parts)).error == error


async def test_a_silent_server_is_a_timeout() -> None:
    released = asyncio.Event()

    async def respond(_: asyncio.StreamWriter) -> None:
        await released.wait()

    options = TargetOptions("m", None, True, True, 0, False, 0.2, {})
    async with foreign_server(respond) as url:
        target = make_target(url, options)
        outcome = await target.send(BenchRequest("hi", 4), 0.0)
        await target.close()
        released.set()

    assert outcome.error == "timeout"
