"""The content policy out of a file that may change at any time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

from inference_service.generation.filter.document import read_rules
from inference_service.generation.filter.finders import Finder, finders
from inference_service.generation.filter.folding import Folding
from inference_service.generation.filter.json_text import JsonText
from inference_service.generation.filter.output import OutputFilter
from inference_service.generation.filter.policy import PromptVerdict
from inference_service.generation.filter.regex import PatternError
from inference_service.generation.filter.rules import Place, Rule
from inference_service.generation.filter.scanner import Scanner
from inference_service.generation.token_buffer import TokenBuffer
from lodestream_common.errors import OperatorError

_log = structlog.stdlib.get_logger(__name__)

Keys = frozenset[str] | None


class RuleBook:
    """Rules made ready: those for the same callers and the same texts are looked for together."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        groups: dict[tuple[Keys, Place], list[Rule]] = {}
        for rule in rules:
            groups.setdefault((rule.keys, rule.place), []).append(rule)
        self._groups = [(keys, place, list(finders(found))) for (keys, place), found in groups.items()]

    def start(self, place: Place, key_name: str) -> OutputFilter | None:
        """Start a filter for one text; None where no rule is about it."""
        found = list(self._finders(place, key_name))

        def scanners() -> list[Scanner]:
            return [Scanner(finder, folding) for finder, folding in found]

        if not found:
            return None
        # Of a prompt the model reads the text as it is; of its answer somebody reads the decoded JSON.
        return OutputFilter(scanners(), JsonText(scanners) if place is Place.OUTPUT else None)

    def _finders(self, place: Place, key_name: str) -> Iterator[tuple[Finder, Folding | None]]:
        for keys, covered, found in self._groups:
            if covered.includes(place) and (keys is None or key_name in keys):
                yield from found


class FilePolicy:
    """Follows changes of a file of rules: looks for them with each question, and with each `refresh`, at most
    every `check_interval` seconds.

    Answers that are being written keep the rules that they began with. New rules are made ready by a thread
    of their own, as nobody who streams can wait for that; until they are, the old ones count. A file that
    vanishes or breaks while the server runs changes nothing: the last good rules count, and one error is
    logged.

    Raises:
        OperatorError: on construction, the file is missing, unreadable or malformed.

    """

    def __init__(self, path: Path, check_interval: float = 0.25) -> None:
        self._path = path
        self._check_interval = check_interval
        self._signature = self._read_signature()
        self._book = read_book(path)
        self._next_check = time.monotonic() + check_interval
        self._loading = threading.Thread()

    def check_prompt(self, texts: Sequence[str], key_name: str) -> PromptVerdict:
        """Judge the texts of a prompt, each by itself, for the caller whose API key has this name."""
        self.refresh()
        judged: list[str] = []
        redacted: set[str] = set()
        for text in texts:
            screen = self._book.start(Place.PROMPT, key_name)
            if screen is None:
                return PromptVerdict(tuple(texts))
            judged.append(_filtered(text, screen))
            redacted |= screen.redacted
            if screen.blocked:
                return PromptVerdict((), screen.blocked)
        return PromptVerdict(tuple(judged), redacted=frozenset(redacted))

    def output_filter(self, key_name: str) -> OutputFilter | None:
        """Start a filter for one choice; None where no rule is about this caller's output."""
        self.refresh()
        return self._book.start(Place.OUTPUT, key_name)

    def refresh(self) -> None:
        """Look whether the file has changed, if it is time to; new rules are made ready by a thread."""
        now = time.monotonic()
        if now < self._next_check or self._loading.is_alive():
            return
        self._next_check = now + self._check_interval
        signature = self._read_signature()
        if signature != self._signature:
            # Taken before the file is read: a change in between is seen at the next check.
            self._signature = signature
            self._loading = threading.Thread(target=self._reload, name="content-filter-reload", daemon=True)
            self._loading.start()

    def _reload(self) -> None:
        try:
            self._book = read_book(self._path)
        except OperatorError as error:
            _log.error("content filter file unusable; the rules known so far still count", reason=str(error))
        else:
            _log.info("content filter reloaded", rules=len(self._book.rules))

    def _read_signature(self) -> tuple[int, ...] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _filtered(text: str, screen: OutputFilter) -> str:
    buffer = TokenBuffer()
    buffer.add(text)
    screen.examine(buffer, len(text), final=True)
    return buffer.settle(screen.safe)


def read_book(path: Path) -> RuleBook:
    """Read a file of rules, and make them ready.

    Raises:
        OperatorError: it is missing, unreadable or malformed; one line.

    """
    try:
        return RuleBook(read_rules(path))
    except PatternError as error:
        raise OperatorError(f"content filter file {path}: all patterns together: {error}") from error
