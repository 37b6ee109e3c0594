"""Logs as another process sees them: one form for all, and no key in any."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import structlog

from lodestream_common.logs import configure, redact

KEY = "pg_" + "Ab3" * 13 + "x"


# A process that has imported everything, of which each script gets a copy.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])


def _run(script: str, level: str, style: Literal["auto", "console", "json"], out: Path, err: Path) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    configure(level, style, server="service")
    names = {"logging": logging, "warnings": warnings, "structlog": structlog, "configure": configure}
    exec(script, {**names, "log": structlog.get_logger("test"), "KEY": KEY})
    logging.shutdown()


Logged = Callable[..., list[str]]


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    """Run a script in a process that has configured its logs, and return what it wrote to stderr."""

    def logged(script: str, level: str = "info", style: str = "json") -> list[str]:
        out, err = tmp_path / "out", tmp_path / "err"
        process = FORKS.Process(target=_run, args=(textwrap.dedent(script), level, style, out, err))
        process.start()
        process.join(60)
        assert process.exitcode == 0, err.read_text()
        assert out.read_text() == ""
        return err.read_text().splitlines()

    return logged


def test_a_line_is_one_json_object(logged: Logged) -> None:
    """It has time (UTC), level, server, event, and the fields."""
    [line] = logged('log.info("request", tokens=3, text="a\\nb \\ud800 é")')
    entry = json.loads(line)

    assert list(entry)[:4] == ["timestamp", "level", "server", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", entry["timestamp"])
    assert (entry["level"], entry["server"], entry["event"], entry["tokens"]) == (
        "info",
        "service",
        "request",
        3,
    )


def test_auto_means_json_without_a_terminal(logged: Logged) -> None:
    """A pipe gets JSON."""
    [line] = logged('log.warning("hello")', style="auto")

    assert json.loads(line)["event"] == "hello"


def test_the_console_form_is_plain_text_off_a_terminal(logged: Logged) -> None:
    """No colour codes reach a pipe."""
    [line] = logged('log.info("hello", n=3)', style="console")

    assert "hello" in line
    assert "n=3" in line
    assert "\x1b" not in line


@pytest.mark.parametrize(("level", "seen"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_a_level_leaves_out_what_is_below_it(logged: Logged, level: str, seen: int) -> None:
    """Only lines as severe as the setting are written."""
    assert len(logged('log.debug("d"); log.info("i"); log.warning("w"); log.error("e")', level)) == seen


def test_log_lines_of_libraries_have_the_same_form(logged: Logged) -> None:
    """Standard loggers and warnings become the same JSON; their lines below a warning are dropped."""
    lines = logged("""
        logging.getLogger("uvicorn.error").warning("slow %s", "reader")
        logging.getLogger("grpc").error("broken")
        logging.getLogger("asyncio").error("a task's exception was never retrieved")
        logging.getLogger("httpx").info("chatter")
        warnings.warn("careful")
    """)

    assert [json.loads(line)["logger"] for line in lines] == [
        "uvicorn.error",
        "grpc",
        "asyncio",
        "py.warnings",
    ]
    assert json.loads(lines[0])["event"] == "slow reader"


def test_configuring_twice_writes_each_line_once(logged: Logged) -> None:
    """The later call replaces the earlier one, and handlers that libraries made."""
    lines = logged("""
        logging.getLogger("uvicorn").addHandler(logging.StreamHandler())
        configure("info", "json", server="bridge")
        logging.getLogger("uvicorn").warning("once")
    """)

    assert [json.loads(line)["server"] for line in lines] == ["bridge"]


@pytest.mark.parametrize("style", ["json", "console"])
def test_an_exception_comes_with_its_traceback(logged: Logged, style: str) -> None:
    """The traceback is in the log, in either form."""
    lines = logged(
        """
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("failed")
        """,
        style=style,
    )
    text = json.loads(lines[0])["exception"] if style == "json" else "\n".join(lines)

    assert "Traceback" in text
    assert "ZeroDivisionError: division by zero" in text


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_key_is_ever_written(logged: Logged, style: str) -> None:
    """Keys in fields, messages, nested values, tracebacks and lines of libraries are redacted."""
    text = "\n".join(
        logged(
            """
            log.info("got " + KEY, header=f"Bearer {KEY}", nested={"a": [KEY, {KEY: KEY.encode()}]})
            logging.getLogger("grpc").error("metadata %r", {"authorization": KEY})
            structlog.contextvars.bind_contextvars(caller=KEY)
            try:
                raise ValueError(KEY)
            except ValueError:
                log.exception("failed")
            """,
            style=style,
        )
    )

    assert KEY not in text
    assert KEY[3:20] not in text
    assert text.count("pg_[redacted]") >= 6


def test_only_keys_are_redacted() -> None:
    """Ordinary words survive, what looks like a key does not."""
    assert redact("pg_ pg_dump page pg_a1") == "pg_ pg_dump page pg_a1"
    assert redact(f"({KEY})") == "(pg_[redacted])"
