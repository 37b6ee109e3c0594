"""How both servers log: structured lines on stderr, of our own code and of the libraries alike."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from lodestream_common.errors import OperatorError
from lodestream_common.log_writer import QueueHandler
from lodestream_common.ready import PARENT_PIPE

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
