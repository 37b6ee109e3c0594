"""`lodestream chat` as a process: piped messages, a terminal, failures."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from inference_service.config import cache_home
from tests.lodestream.conftest import COMMAND
from tests.support.processes import ServerProcess, server_process

# The home of these tests is empty; the model is in the ordinary cache.
CACHE = cache_home()


@asynccontextmanager
async def service(home: Path, **settings: object) -> AsyncIterator[ServerProcess]:
    given = {"backend": "simulated", "model": "smollm2-135m-instruct", "grpc_address": "127.0.0.1:0",
             "cache_dir": CACHE, **settings}  # fmt: skip
    async with server_process("serve", home, **given) as server:
        yield server


async def chat(text: str, *options: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "chat", *options, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(text.encode()), 30)
    return process.returncode or 0, out.decode(), err.decode()


async def test_piped_messages_are_answered_in_one_conversation(tmp_path: Path) -> None:
    async with service(tmp_path) as server:
        options = (
            "--target",
            server.address,
            "--max-tokens",
            "5",
            "--temperature",
            "0",
            "--system",
            "Be brief.",
        )
        status, out, err = await chat("Hello\n\n/undo\nHello\nAnd then?\n/nonsense\n", *options)
        _, again, _ = await chat("Hello\n", *options)

    first, second, third = out.splitlines()
    assert (status, err) == (0, "/nonsense: unknown command; there are /reset and /undo\n")
    # After /undo the same question has the same answer; a longer conversation has another.
    assert first == second == again.strip("\n")
    assert third != first


async def test_a_failed_question_is_reported_and_the_chat_continues(tmp_path: Path) -> None:
    async with service(tmp_path, context_length=64) as server:
        options = ("--target", server.address, "--max-tokens", "5")
        status, out, err = await chat("word " * 200 + "\nHello\n", *options)

    assert status == 0
    assert len(out.splitlines()) == 1
    assert err.startswith("lodestream: ")


async def test_a_missing_service_is_an_error_of_one_line() -> None:
    status, out, err = await chat("Hello\n", "--target", "127.0.0.1:1")

    assert (status, out) == (1, "")
    assert err.startswith("lodestream: the service does not answer: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("words", [("--max-tokens", "0"), ("--temperature", "warm"), ("--nonsense",)])
async def test_wrong_options_are_refused(words: tuple[str, ...]) -> None:
    status, _, err = await chat("", *words)

    assert status == 2
    assert words[0] in err


async def test_ctrl_c_stops_an_answer_and_ctrl_d_ends_the_chat(tmp_path: Path) -> None:
    async with service(tmp_path, simulated_decode_tps=20) as server:
        ours, theirs = pty.openpty()
        process = start(theirs, "--target", server.address, "--max-tokens", "400")
        os.close(theirs)
        try:
            await until(ours, r"> $")
            os.write(ours, b"Hello\n")
            await until(ours, r"Hello\r?\n\S+ \S+")
            process.send_signal(signal.SIGINT)
            await until(ours, r"\n> $")
            os.write(ours, b"\x04")
            assert await asyncio.to_thread(process.wait, 10) == 0
        finally:
            process.kill()
            await asyncio.to_thread(process.wait, 10)
            os.close(ours)


def start(terminal: int, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "chat", *options], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )


async def until(terminal: int, pattern: str) -> str:
    """Read a terminal until what it shows matches."""
    shown = ""
    async with asyncio.timeout(20):
        while not re.search(pattern, re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", shown)):
            shown += (await asyncio.to_thread(os.read, terminal, 4096)).decode(errors="replace")
    return shown
