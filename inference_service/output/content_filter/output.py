"""Applies the content filter to the text of one choice, and defines the interface of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from inference_service.output.content_filter.json_text import JsonText
from inference_service.output.content_filter.rules import Action, Span
from inference_service.output.token_buffer import TokenBuffer

if TYPE_CHECKING:
    from inference_service.output.content_filter.matching import Scanner


_BLOCK = 1024
"""Most characters that are looked at in one go; keeps the work for long texts linear."""


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that blocks matched."""

    rule: str
    """The name of the rule; never the text that matched."""


class OutputFilter:
    """Reports how much of a growing text no rule can change any more, and marks the redactions in it.

    What it reports is a function of the whole text, however it is cut: everything that any rule to redact
    matches is hidden, overlapping or touching matches behind one replacement, that of the match that begins
    first; and the text ends where the first match of a rule to block begins. Where the text holds JSON, the
    rules are about what its strings say, and hiding a match leaves it JSON; see `JsonText`.

    Args:
        scanners: find matches in the text as it is.
        json_text: follows JSON in it; None: the text is ordinary text.

    """

    def __init__(self, scanners: Sequence[Scanner], json_text: JsonText | None = None) -> None:
        self._scanners = scanners
        self._json = json_text
        self._spans: list[Span] = []
        """Matches in the text as it is that begin in what is held back."""
        self._json_spans: list[Span] = []
        """Those in the strings of its JSON."""
        self._total = 0
        self._redacted: set[str] = set()
        self.safe = 0
        """Length of the text that can be released."""
        self.blocked: Match | None = None
        """What ended the text, if anything; what came before it is safe."""

    @property
    def redacted(self) -> frozenset[str]:
        """Names of the rules that hid something so far."""
        return frozenset(self._redacted)

    @property
    def held(self) -> int:
        """The number of characters that are held back."""
        return 0 if self.blocked else self._total - self.safe

    def examine(self, buffer: TokenBuffer, upto: int, *, final: bool = False) -> None:
        """Examine the buffer's text before offset `upto`, redact it there, and move `safe`.

        Args:
            buffer: the same one each time; it holds all text from `safe` on.
            upto: how much of the text may be examined.
            final: the text ends at `upto`.

        """
        while self._total < upto and not self.blocked:
            end = min(self._total + _BLOCK, upto)
            self._advance(buffer, buffer.held_text(self._total, end))
        if final and not self.blocked:
            self._advance(buffer, "", final=True)

    def _advance(self, buffer: TokenBuffer, text: str, *, final: bool = False) -> None:
        self._total += len(text)
        for scanner in self._scanners:
            self._spans += scanner.feed(text, final=final)
        frontier = min(scanner.safe for scanner in self._scanners)
        if self._json is not None:
            self._json_spans += self._json.feed(text, final=final)
            frontier = self._json.clip(min(frontier, self._json.safe))
        for span in self._take_spans(frontier):
            if span.rule.action is Action.BLOCK:
                self.blocked = Match(span.rule.name)
                self.safe = span.start
                return
            buffer.redact(span.start, span.end, span.rule.replacement)
            self._redacted.add(span.rule.name)
        self.safe = frontier

    def _take_spans(self, frontier: int) -> list[Span]:
        due: list[Span] = []
        if self._spans or self._json_spans:
            due += [span for span in self._json_spans if span.start < frontier]
            found = (span for span in self._spans if span.start < frontier)
            due += found if self._json is None else filter(None, map(self._json.resolve, found))
            due.sort(key=lambda span: span.rank)
            self._json_spans = [span for span in self._json_spans if span.start >= frontier]
            self._spans = [span for span in self._spans if span.start >= frontier]
        if self._json is not None:
            self._json.forget(frontier)
        return due


@dataclass(frozen=True, slots=True)
class PromptVerdict:
    """The result of checking a prompt."""

    texts: tuple[str, ...]
    """The texts to use, one for each checked text: unchanged or redacted."""
    blocked: Match | None = None
    """The rule that forbids the prompt; `texts` must not be used then."""
    redacted: frozenset[str] = frozenset()
    """Names of the rules that changed a text."""


class ContentPolicy(Protocol):
    """Decides which prompts and outputs are permitted. Must be safe to call from several threads."""

    def check_prompt(self, texts: Sequence[str], key_name: str) -> PromptVerdict:
        """Check the texts of a prompt, each by itself, for the caller whose API key has this name."""
        ...

    def refresh(self) -> None:
        """Check whether the rules have changed. Returns quickly; new rules may apply a little later."""
        ...

    def output_filter(self, key_name: str) -> OutputFilter | None:
        """Start a filter for one choice; None if no rule applies to this caller's output."""
        ...
