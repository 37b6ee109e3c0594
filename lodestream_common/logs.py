"""Logs of both servers: structured lines on stderr, through a bounded queue that drops lines if full."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from lodestream_common.errors import OperatorError
from lodestream_common.ready import PARENT_PIPE

_MAX_LINES = 4096
_MAX_BYTES = 4 * 1024 * 1024
"""The limits of the queue, in lines and bytes; further lines are dropped and counted."""
_FLUSH_SECONDS = 2.0
"""Seconds that a process waits at its end for its lines to be written."""


class QueueHandler(logging.Handler):
    """Formats each record in the thread that logs, and writes it in a thread of its own.

    A reader that stops reading never delays the server: while the queue is full, lines are dropped. When the
    reader continues, one line reports how many (`dropped`).

    Args:
        stream: the target of the lines, such as stderr.

    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._descriptor = _descriptor_of(stream)
        # Only SimpleQueue is reentrant, and a finaliser can log at any moment, also inside `put`.
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._queued = 0
        self._queued_bytes = 0
        self._written = 0
        self._written_bytes = 0
        self._dropped = 0
        self._reported = 0
        threading.Thread(target=self._write_all, name="log-writer", daemon=True).start()

    @property
    def has_written(self) -> bool:
        """Whether any line was queued."""
        return self._queued > 0

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as dropped. The caller has the lock of the handler."""
        if self._is_full:
            self._dropped += 1
            return
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception:  # a line that cannot be rendered must not end a request
            self._dropped += 1
            return
        self._queued += 1
        self._queued_bytes += len(line)
        self._queue.put(line)

    def flush(self) -> None:
        """Wait until all lines are written, at most 2 seconds."""
        end = time.monotonic() + _FLUSH_SECONDS
        while self._is_behind and time.monotonic() < end:
            time.sleep(0.002)

    def close(self) -> None:
        """End the thread after the queued lines, without waiting for it."""
        self._queue.put(None)
        super().close()

    @property
    def _is_behind(self) -> bool:
        return self._written < self._queued or self._reported < self._dropped

    @property
    def _is_full(self) -> bool:
        waiting = self._queued - self._written
        return waiting >= _MAX_LINES or self._queued_bytes - self._written_bytes >= _MAX_BYTES

    def _write_all(self) -> None:
        while (line := self._queue.get()) is not None:
            self._write(line)
            self._written_bytes += len(line)
            self._written += 1
            self._report_dropped()

    def _report_dropped(self) -> None:
        dropped = self._dropped
        if dropped > self._reported:
            line = self.format(_dropped_record(dropped - self._reported)) + "\n"
            self._write(line.encode("utf-8", "backslashreplace"))
            self._reported = dropped

    def _write(self, block: bytes) -> None:
        try:
            if self._descriptor is None:
                self._stream.write(block.decode())
                return
            while block:
                block = block[os.write(self._descriptor, block) :]
        except (OSError, ValueError):
            # The reader has closed the stream, and there is no other place to report it.
            return


def _dropped_record(dropped: int) -> logging.LogRecord:
    attributes = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
    return logging.makeLogRecord({**attributes, "msg": "log_lines_dropped", "dropped": dropped})


def _descriptor_of(stream: TextIO) -> int | None:
    """The descriptor of a stream, or None. Writing to it directly avoids the stream's lock: Python aborts if
    a thread has that lock when the process ends.
    """
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


_KEY = re.compile(r"pg_[0-9A-Za-z]{8,}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_VERBOSE = (
    "asyncio",
    "grpc",
    "hpack",
    "httpcore",
    "httpx",
    "huggingface_hub",
    "urllib3",
    "uvicorn",
)
"""Libraries whose `info` lines do not help an operator: they log from `warning` on, or everything at
`debug`."""


def configure(
    level: str,
    format: Literal["auto", "console", "json"],  # noqa: A002  the name of the setting
    server: Literal["service", "bridge"],
) -> None:
    """Send every log line of this process to stderr, in one format, each with `server`.

    It replaces the handlers of the standard `logging` module, also those of libraries. API keys are removed
    from every line, also from tracebacks. No caller waits for the reader of a line. Another call changes the
    settings.

    Args:
        level: the least severe level written: `debug`, `info`, `warning` or `error`.
        format: `console` for people, `json` for one object a line, `auto` to decide by the terminal.
        server: the server in this process.

    """
    # The gRPC core writes lines of its own directly to stderr, and would wait for their reader. Their content
    # is in the statuses of calls too. The core reads this variable when it is loaded; see `native_lines`.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    shared = _processors(server)
    handler = QueueHandler(sys.stderr)
    handler.setFormatter(
        RedactingFormatter(
            foreign_pre_chain=[
                *shared,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.StackInfoRenderer(),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(format)],
        )
    )
    _take_over(handler, level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    # The factory above has set a class of structlog's own.
    logging.setLoggerClass(_LibraryLogger)


@contextlib.contextmanager
def separate_error() -> Iterator[None]:
    """Print an empty line between the log lines and the OperatorError that ends the process.

    Below `lodestream up` the error is printed by that command, and so is the empty line.
    """
    try:
        yield
    except OperatorError:
        handlers = [h for h in logging.getLogger().handlers if isinstance(h, QueueHandler)]
        for handler in handlers:
            handler.flush()
        if any(handler.has_written for handler in handlers) and PARENT_PIPE not in os.environ:
            sys.stderr.write("\n")
        raise


class RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    """Renders a line and removes every API key from it. It is the last step, so it sees all text."""

    def format(self, record: logging.LogRecord) -> str:
        """Render the line, then redact it."""
        return redact(super().format(record))


def redact(text: str) -> str:
    """Replace everything that looks like an API key."""
    return _KEY.sub("pg_[redacted]", text) if "pg_" in text else text


def _processors(server: str) -> list[Processor]:
    def name_server(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event["server"] = server
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_server,
    ]


def _renderers(style: str) -> list[Processor]:
    if style == "json" or (style == "auto" and not sys.stderr.isatty()):
        return [structlog.processors.format_exc_info, _common_first, _render_json]
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return [
        structlog.dev.ConsoleRenderer(
            colors=colors, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
        )
    ]


# It escapes everything but ASCII, so that no text can break a line. `json.dumps` would make one each time.
_ENCODER = json.JSONEncoder(default=repr)


def _render_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    return _ENCODER.encode(event)


def _common_first(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Put the fields that every line has first."""
    return {name: event[name] for name in ("timestamp", "level", "server", "event")} | dict(event)


class _LibraryLogger(logging.Logger):
    """A logger that a library makes later, perhaps with a handler of its own, which would write raw lines."""

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802
        """Refuse the handler: every line goes to that of the root logger."""

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Pass a line on to the root logger, also where a library turned that off."""
        logging.getLogger().callHandlers(record)


def _take_over(handler: logging.Handler, level: str) -> None:
    # No line has these, and reading them takes time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    for former in [former for former in root.handlers if isinstance(former, QueueHandler)]:
        former.close()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in list(logging.root.manager.loggerDict):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    for name in _VERBOSE:
        logging.getLogger(name).setLevel(
            logging.DEBUG if level == "DEBUG" else max(root.level, logging.WARNING)
        )
    logging.captureWarnings(True)


def choose_request_id(given: str | None = None, prefix: str = "") -> str:
    """The caller's id of a request, if it is safe in logs and headers; else a new one with the prefix."""
    return given if given and _REQUEST_ID.fullmatch(given) else f"{prefix}{uuid.uuid4().hex}"


def catch_exceptions() -> None:
    """Log unexpected exceptions, which Python would write directly to stderr.

    A fatal signal, such as a fault in a native library, writes the stacks of all threads to stderr as plain
    text: a dying process cannot render them.
    """
    faulthandler.enable(sys.stderr)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_thread
    sys.unraisablehook = _log_unraisable


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger("python").critical("the process ends", exc_info=(kind, error, traceback))


def _log_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        name = ended.thread.name if ended.thread else "unknown"
        logging.getLogger("threading").error("thread %s ended", name, exc_info=ended.exc_value)


def _log_unraisable(failed: sys.UnraisableHookArgs) -> None:
    what = failed.err_msg or "an exception was ignored in"
    logging.getLogger("python").error("%s %r", what, failed.object, exc_info=failed.exc_value)
