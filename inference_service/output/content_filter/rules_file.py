"""Reads the file of rules (TOML or JSON) strictly, and reloads it when it changes.

[[rules]]
name = "project names"
phrases = ["project heron", "project egret"]
action = "block"

[[rules]]
name = "secrets"
patterns = ['sk-[A-Za-z0-9]{20,64}']
action = "redact"
replacement = "[secret]"
applies_to = "output"
keys = ["alice", "bob"]
"""

from __future__ import annotations

import difflib
import json
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from inference_service.output.content_filter.json_text import JsonText
from inference_service.output.content_filter.matching import FOLDINGS, Finder, Folding, Scanner, finders
from inference_service.output.content_filter.output import OutputFilter, PromptVerdict
from inference_service.output.content_filter.patterns import PatternError, translate
from inference_service.output.content_filter.rules import Action, Place, Rule
from inference_service.output.token_buffer import TokenBuffer
from lodestream_common.errors import OperatorError
from lodestream_common.watched_file import WatchedFile

LONGEST_PHRASE = 256
"""In characters, after folding."""


def _check_phrase(text: str) -> str:
    folded = max((folding.fold(text) for folding in FOLDINGS.values()), key=len)
    if not folded.strip():
        raise ValueError("has nothing visible in it")
    if len(folded) > LONGEST_PHRASE:
        raise ValueError(f"is longer than {LONGEST_PHRASE} characters")
    return text


def _check_pattern(text: str) -> str:
    translate(text)
    return text


def _check_name(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be printable, with no space at either end")
    return text


Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_check_name)]


class _Entry(BaseModel):
    """One rule as it stands in the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name
    phrases: list[Annotated[str, AfterValidator(_check_phrase)]] = []
    patterns: list[Annotated[str, AfterValidator(_check_pattern)]] = []
    action: Literal["block", "redact"]
    replacement: str | None = Field(default=None, max_length=256)
    applies_to: Literal["prompt", "output", "both"] = "both"
    keys: list[Name] | None = None
    ignore_case: bool = True
    whole_word: bool = False

    @model_validator(mode="after")
    def _check(self) -> _Entry:
        if not self.phrases and not self.patterns:
            raise ValueError("needs phrases or patterns")
        if self.action == "block" and self.replacement is not None:
            raise ValueError("a replacement is for the action redact only")
        return self

    def rule(self, order: int) -> Rule:
        return Rule(
            name=self.name,
            order=order,
            action=Action(self.action),
            replacement="[redacted]" if self.replacement is None else self.replacement,
            place=Place(self.applies_to),
            keys=None if self.keys is None else frozenset(self.keys),
            phrases=tuple(self.phrases),
            patterns=tuple(self.patterns),
            ignore_case=self.ignore_case,
            whole_word=self.whole_word,
        )


class _Document(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rules: list[_Entry] = []


def parse_rules(content: bytes, path: Path) -> tuple[Rule, ...]:
    """Read the content of a file of rules.

    Raises:
        OperatorError: it is malformed; one line that names the file, and the rule and member at fault.

    """
    document = _load(content, path)
    try:
        entries = _Document.model_validate(document).rules
    except ValidationError as error:
        raise OperatorError(f"{_title(path)}: {_explain(error, document)}") from None
    names = [entry.name for entry in entries]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise OperatorError(f"{_title(path)}: two rules have the name {twice!r}")
    return tuple(entry.rule(order) for order, entry in enumerate(entries))


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Read a file of rules.

    Raises:
        OperatorError: it cannot be read, or is malformed.

    """
    try:
        return parse_rules(path.read_bytes(), path)
    except OSError as error:
        raise OperatorError(f"{_title(path)}: cannot be read: {error.strerror}") from error


def _title(path: Path) -> str:
    return f"content filter file {path}"


def _load(content: bytes, path: Path) -> Any:
    kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
    try:
        text = content.decode("utf-8")
        if kind == "JSON":
            return json.loads(text)
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise OperatorError(f"{_title(path)}: is not valid {kind}: {' '.join(str(error).split())}") from error


def _explain(error: ValidationError, document: Any) -> str:
    first = error.errors(include_url=False)[0]
    place = _location(first["loc"], document)
    if first["type"] == "extra_forbidden":
        known = _Entry.model_fields if len(first["loc"]) > 1 else _Document.model_fields
        return f"{place}: unknown member; {_known(str(first['loc'][-1]), known)}"
    reason = _reason(first)
    return f"{place}: {' '.join(reason.split())}" if place else reason


def _reason(error: ErrorDetails) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return "must be a table of members" if error["type"] == "model_type" else error["msg"]


def _location(location: tuple[int | str, ...], document: Any) -> str:
    """Write the place of an error in the file's own terms: `rules[2] 'secrets': patterns[0]`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    text = text.removeprefix(".")
    if len(location) < 2:
        return text
    entry = document["rules"][location[1]]
    name = entry.get("name") if isinstance(entry, Mapping) else None
    head, _, member = text.partition(".")
    return f"{head} {name!r}: {member}".removesuffix(": ") if isinstance(name, str) else text


def _known(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


_log = structlog.stdlib.get_logger(__name__)

Keys = frozenset[str] | None


class CompiledRules:
    """Rules with their finders: rules for the same callers and texts share finders."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        groups: dict[tuple[Keys, Place], list[Rule]] = {}
        for rule in rules:
            groups.setdefault((rule.keys, rule.place), []).append(rule)
        self._groups = [(keys, place, list(finders(found))) for (keys, place), found in groups.items()]

    def start(self, place: Place, key_name: str) -> OutputFilter | None:
        """Start a filter for one text; None if no rule applies to it."""
        found = list(self._finders(place, key_name))

        def scanners() -> list[Scanner]:
            return [Scanner(finder, folding) for finder, folding in found]

        if not found:
            return None
        # The model reads the text of a prompt as it is; callers decode the JSON of an answer.
        return OutputFilter(scanners(), JsonText(scanners) if place is Place.OUTPUT else None)

    def _finders(self, place: Place, key_name: str) -> Iterator[tuple[Finder, Folding | None]]:
        for keys, covered, found in self._groups:
            if covered.includes(place) and (keys is None or key_name in keys):
                yield from found


class FilePolicy:
    """Follows changes of a file of rules: each check of a prompt and each `refresh` looks for a change, at
    most every `check_interval` seconds.

    A running answer keeps the rules that it began with. A thread of its own compiles new rules, so that no
    stream waits for them; until then the old rules apply. A file that vanishes or becomes malformed while the
    server runs changes nothing: the last valid rules apply, and one error is logged.

    Raises:
        OperatorError: on construction, the file is missing, unreadable or malformed.

    """

    def __init__(self, path: Path, check_interval: float = 0.25) -> None:
        self._path = path
        self._watched = WatchedFile(path, check_interval)
        self._rules = load_rules(path)
        self._loading = threading.Thread()

    def check_prompt(self, texts: Sequence[str], key_name: str) -> PromptVerdict:
        """Check the texts of a prompt, each by itself, for the caller whose API key has this name."""
        self.refresh()
        checked: list[str] = []
        redacted: set[str] = set()
        for text in texts:
            text_filter = self._rules.start(Place.PROMPT, key_name)
            if text_filter is None:
                return PromptVerdict(tuple(texts))
            checked.append(_filtered(text, text_filter))
            redacted |= text_filter.redacted
            if text_filter.blocked:
                return PromptVerdict((), text_filter.blocked)
        return PromptVerdict(tuple(checked), redacted=frozenset(redacted))

    def output_filter(self, key_name: str) -> OutputFilter | None:
        """Start a filter for one choice; None if no rule applies to this caller's output."""
        self.refresh()
        return self._rules.start(Place.OUTPUT, key_name)

    def refresh(self) -> None:
        """Check whether the file has changed, if the interval has passed; a thread compiles new rules."""
        if not self._loading.is_alive() and self._watched.has_changed():
            self._loading = threading.Thread(target=self._reload, name="content-filter-reload", daemon=True)
            self._loading.start()

    def _reload(self) -> None:
        try:
            self._rules = load_rules(self._path)
        except OperatorError as error:
            _log.error("content_filter_unusable", reason=str(error))
        else:
            _log.info("content_filter_reloaded", rules=len(self._rules.rules))


def _filtered(text: str, text_filter: OutputFilter) -> str:
    buffer = TokenBuffer()
    buffer.add(text)
    text_filter.examine(buffer, len(text), final=True)
    return buffer.settle(text_filter.safe)


def load_rules(path: Path) -> CompiledRules:
    """Read a file of rules and compile them.

    Raises:
        OperatorError: it is missing, unreadable or malformed; one line.

    """
    try:
        return CompiledRules(read_rules(path))
    except PatternError as error:
        raise OperatorError(f"content filter file {path}: all patterns together: {error}") from error
