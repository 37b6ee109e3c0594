"""How both servers log: structured lines on stderr, through a bounded queue that drops and counts."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from lodestream_common.errors import OperatorError
from lodestream_common.ready import PARENT_PIPE

_MAX_LINES = 4096
_MAX_BYTES = 4 * 1024 * 1024
"""What waits for a reader at most, lines and bytes; what comes then is dropped, and counted."""
_KILL_GRACE_SECONDS = 2.0
"""A process that ends waits so long for its lines to be read."""


class QueueHandler(logging.Handler):
    """Formats each record where it is made, and has it written by a thread of its own.

    A reader that stops reading costs lines, never time: while the queue is full, lines are dropped. Once the
    reader goes on, a line says how many (`dropped`).

    Args:
        stream: where the lines go, stderr.

    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._descriptor = _descriptor_of(stream)
        # Of all queues this one alone may be used while it is in use: finalisers log at any moment.
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._taken = 0
        self._taken_bytes = 0
        self._written = 0
        self._written_bytes = 0
        self._dropped = 0
        self._told = 0
        threading.Thread(target=self._write_all, name="log-writer", daemon=True).start()

    @property
    def has_written(self) -> bool:
        """Whether any line came here."""
        return self._taken > 0

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as dropped. The caller holds the handler's lock."""
        if self._is_full:
            self._dropped += 1
            return
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception:  # what cannot be rendered must not end a request
            self._dropped += 1
            return
        self._taken += 1
        self._taken_bytes += len(line)
        self._queue.put(line)

    def flush(self) -> None:
        """Wait until everything is written, at most 2 seconds."""
        end = time.monotonic() + _KILL_GRACE_SECONDS
        while self._is_behind and time.monotonic() < end:
            time.sleep(0.002)

    def close(self) -> None:
        """End the thread once it has written what is queued. Does not wait for that."""
        self._queue.put(None)
        super().close()

    @property
    def _is_behind(self) -> bool:
        return self._written < self._taken or self._told < self._dropped

    @property
    def _is_full(self) -> bool:
        waiting = self._taken - self._written
        return waiting >= _MAX_LINES or self._taken_bytes - self._written_bytes >= _MAX_BYTES

    def _write_all(self) -> None:
        while (line := self._queue.get()) is not None:
            self._write(line)
            self._written_bytes += len(line)
            self._written += 1
            self._tell_dropped()

    def _tell_dropped(self) -> None:
        dropped = self._dropped
        if dropped > self._told:
            line = self.format(_about(dropped - self._told)) + "\n"
            self._write(line.encode("utf-8", "backslashreplace"))
            self._told = dropped

    def _write(self, block: bytes) -> None:
        try:
            if self._descriptor is None:
                self._stream.write(block.decode())
                return
            while block:
                block = block[os.write(self._descriptor, block) :]
        except (OSError, ValueError):
            # Nobody can read it any more, and there is nowhere else to say so.
            return


def _about(dropped: int) -> logging.LogRecord:
    attributes = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
    return logging.makeLogRecord({**attributes, "msg": "log lines dropped", "dropped": dropped})


def _descriptor_of(stream: TextIO) -> int | None:
    """Written to directly: a thread that holds the stream's own lock when the process ends would abort it."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


_KEY = re.compile(r"pg_[0-9A-Za-z]{8,}")
_CHATTY = ("asyncio", "grpc", "hpack", "httpcore", "httpx", "huggingface_hub", "urllib3", "uvicorn")
"""Libraries whose `info` lines say nothing to an operator: they speak from `warning` on, or at `debug`."""


def configure(
    level: str,
    format: Literal["auto", "console", "json"],  # noqa: A002  as the setting is called
    server: Literal["service", "bridge"],
) -> None:
    """Send every log line of this process to stderr, in one form, each marked with `server`.

    Takes over the standard `logging` module, loggers that libraries have set up already included. API
    keys are cut out of whatever is written, tracebacks too. Nobody waits for a line to be read. Call it again
    to change the settings.

    Args:
        level: the least severe level written: `debug`, `info`, `warning` or `error`.
        format: `console` for people, `json` for one object a line, `auto` to decide by the terminal.
        server: which of the two servers this process is.

    """
    # The core of grpc writes lines of its own, past everything here, and would wait for their reader. What
    # they say is in the statuses of calls, too. It reads this when it is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    shared = _processors(server)
    handler = QueueHandler(sys.stderr)
    handler.setFormatter(
        RedactingFormatter(
            foreign_pre_chain=shared,
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


@contextlib.contextmanager
def errors_apart() -> Iterator[None]:
    """Leave an empty line between log lines and the operator's error that ends the process.

    Under `lodestream up` it is up that prints the error.
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
    """Renders a line and cuts every API key out of it. The last step, so that nothing passes it by."""

    def format(self, record: logging.LogRecord) -> str:
        """Render, then redact."""
        return redact(super().format(record))


def redact(text: str) -> str:
    """Replace whatever looks like an API key."""
    return _KEY.sub("pg_[redacted]", text) if "pg_" in text else text


def _processors(server: str) -> list[Processor]:
    def name_server(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event["server"] = server
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        name_server,
    ]


def _renderers(style: str) -> list[Processor]:
    if style == "json" or (style == "auto" and not sys.stderr.isatty()):
        # The standard encoder escapes what is not ASCII: no text, however broken, can spoil a line.
        return [structlog.processors.format_exc_info, _lead, structlog.processors.JSONRenderer()]
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return [
        structlog.dev.ConsoleRenderer(
            colors=colors, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
        )
    ]


def _lead(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Put first what every line has."""
    return {name: event[name] for name in ("timestamp", "level", "server", "event")} | dict(event)


def _take_over(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    for former in [former for former in root.handlers if isinstance(former, QueueHandler)]:
        former.close()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in list(logging.root.manager.loggerDict):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    for name in _CHATTY:
        logging.getLogger(name).setLevel(
            logging.DEBUG if level == "DEBUG" else max(root.level, logging.WARNING)
        )
    logging.captureWarnings(True)


def catch_exceptions() -> None:
    """Log the exceptions that end threads and finalisers, which Python alone writes past everything here."""
    threading.excepthook = _log_thread
    sys.unraisablehook = _log_unraisable


def _log_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        name = ended.thread.name if ended.thread else "unknown"
        logging.getLogger("threading").error("thread %s ended", name, exc_info=ended.exc_value)


def _log_unraisable(failed: sys.UnraisableHookArgs) -> None:
    what = failed.err_msg or "an exception was ignored in"
    logging.getLogger("python").error("%s %r", what, failed.object, exc_info=failed.exc_value)
