"""One choice's text on its way through the content filter."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inference_service.backends.types import TokenLogprob
from inference_service.generation.filter.json_text import JsonText
from inference_service.generation.filter.rules import Action, Span, Watcher
from inference_service.generation.text import Piece

_BLOCK = 1024
"""Most characters that are looked at in one go; keeps the work for long texts linear."""


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that blocks matched."""

    rule: str
    """The name of the rule; never the text that matched."""


class OutputFilter:
    """Lets text out as soon as no rule can have a say in it any more, and tokens with the last of their text.

    What leaves is a function of the whole text, however it is cut: everything that any rule to redact
    matches is hidden, overlapping or touching matches behind one replacement, that of the match that begins
    first; and the text ends where the first match of a rule to block begins. Where the text holds JSON, the
    rules are about what its strings say, and hiding a match leaves it JSON; see `JsonText`.

    Args:
        watchers: find matches in the text as it is.
        json_text: follows JSON in it; None: the text is only words.

    """

    def __init__(self, watchers: Sequence[Watcher], json_text: JsonText | None = None) -> None:
        self._watchers = watchers
        self._json = json_text
        self._spans: list[Span] = []
        """Matches in the text as it is."""
        self._known: list[Span] = []
        """Matches in the strings of its JSON."""
        self._tokens = _Tokens()
        self._held = ""
        self._released = 0
        self._hidden = -1
        """Where the latest redaction ends; -1 before there is one."""
        self._redacted: set[str] = set()
        self.blocked: Match | None = None

    @property
    def redacted(self) -> frozenset[str]:
        """Names of the rules that hid something so far."""
        return frozenset(self._redacted)

    @property
    def held(self) -> int:
        """How many characters are held back."""
        return len(self._held)

    def feed(self, piece: Piece) -> Piece:
        """Take the next piece in; return what may leave. Once blocked, nothing does."""
        if self.blocked:
            return Piece("")
        self._tokens.add(piece)
        return self._leave("".join(self._advance(block) for block in _blocks(piece.text)))

    def flush(self) -> Piece:
        """End the text here; return all that was held and may leave."""
        if self.blocked:
            return Piece("")
        return self._leave(self._advance("", final=True))

    def _leave(self, text: str) -> Piece:
        ids, count, logprobs = self._tokens.release(self._released)
        return Piece(text, ids, count, logprobs)

    def _advance(self, text: str, *, final: bool = False) -> str:
        if self.blocked:
            return ""
        self._held += text
        for watcher in self._watchers:
            self._spans += watcher.feed(text, final=final)
        frontier = min(watcher.safe for watcher in self._watchers)
        if self._json is not None:
            self._known += self._json.feed(text, final=final)
            frontier = self._json.clip(min(frontier, self._json.safe))
        return "".join(self._show_upto(frontier))

    def _show_upto(self, frontier: int) -> Iterator[str]:
        for span in self._take_spans(frontier):
            yield self._show(span.start)
            if span.rule.action is Action.BLOCK:
                self.blocked = Match(span.rule.name)
                self._held = ""
                return
            if span.start > self._hidden:
                yield span.rule.replacement
            self._hide(span)
        yield self._show(frontier)

    def _take_spans(self, frontier: int) -> list[Span]:
        due = [span for span in self._known if span.start < frontier]
        found = (span for span in self._spans if span.start < frontier)
        due += found if self._json is None else filter(None, map(self._json.judge, found))
        self._known = [span for span in self._known if span.start >= frontier]
        self._spans = [span for span in self._spans if span.start >= frontier]
        if self._json is not None:
            self._json.forget(frontier)
        return sorted(due, key=lambda span: span.rank)

    def _hide(self, span: Span) -> None:
        self._hidden = max(self._hidden, span.end)
        self._tokens.hide(span)
        self._redacted.add(span.rule.name)

    def _show(self, upto: int) -> str:
        """Let go of the text before `upto`; return what of it is not hidden."""
        count = upto - self._released
        hidden = min(max(self._hidden - self._released, 0), count)
        text, self._held = self._held[hidden:count], self._held[count:]
        self._released = upto
        return text


class _Tokens:
    """The tokens whose text is still held, and which of them must not be named."""

    def __init__(self) -> None:
        self._total = 0
        self._waiting: deque[tuple[int, int, Piece]] = deque()
        """Start and end of its text, and a piece."""
        self._hidden: deque[Span] = deque()

    def add(self, piece: Piece) -> None:
        start, self._total = self._total, self._total + len(piece.text)
        self._waiting.append((start, self._total, piece))

    def hide(self, span: Span) -> None:
        self._hidden.append(span)

    def release(self, upto: int) -> tuple[list[int], int, list[TokenLogprob]]:
        """Ids, count and log probabilities of the tokens whose text ends at `upto` or before."""
        ids: list[int] = []
        logprobs: list[TokenLogprob] = []
        count = 0
        while self._waiting and self._waiting[0][1] <= upto:
            start, end, piece = self._waiting.popleft()
            count += piece.token_count
            if not self._is_hidden(start, end):
                ids.extend(piece.token_ids)
                logprobs.extend(piece.logprobs)
        return ids, count, logprobs

    def _is_hidden(self, start: int, end: int) -> bool:
        while self._hidden and self._hidden[0].end <= start:
            self._hidden.popleft()
        return any(span.start < end and start < span.end for span in self._hidden)


def _blocks(text: str) -> Iterator[str]:
    # A piece without text still moves its tokens, and needs no look.
    return (text[at : at + _BLOCK] for at in range(0, len(text), _BLOCK))
