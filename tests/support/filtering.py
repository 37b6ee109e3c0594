"""A brute-force content filter to compare with, and random rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from inference_service.output.content_filter.matching import FOLDINGS, is_word
from inference_service.output.content_filter.output import OutputFilter
from inference_service.output.content_filter.rules import Action, Place, Rule, Span
from inference_service.output.content_filter.rules_file import CompiledRules
from inference_service.output.events import Delta, ScoredToken
from inference_service.output.token_buffer import TokenBuffer

LETTERS = "ab漢😀 "
PATTERNS = ("a{2,4}", "a[^b]", "(?:ab|ba){1,2}", "b?a?漢", "😀.{0,3}b", "a.a", "(a|aa|aaa){1,3}b")
"""Patterns that mean the same in Python's syntax and in ours."""


def rule(name: str = "rule", **given: object) -> Rule:
    """A rule that blocks everywhere, except for the given fields."""
    defaults: dict[str, object] = {
        "order": 0,
        "action": Action.BLOCK,
        "replacement": "[redacted]",
        "place": Place.BOTH,
        "keys": None,
        "phrases": (),
        "patterns": (),
        "ignore_case": True,
        "whole_word": False,
    }
    return Rule(name, **{**defaults, **given})  # type: ignore[arg-type]


def start(*rules: Rule) -> OutputFilter:
    """Start a filter for one output with some rules."""
    started = CompiledRules(rules).start(Place.OUTPUT, "anybody")
    assert started is not None
    return started


def delta(text: str, ids: Sequence[int] = (), count: int = 0, logprobs: Sequence[ScoredToken] = ()) -> Delta:
    """Text with its tokens, of the first choice."""
    return Delta(0, text, ids, count, logprobs)


class Filtered:
    """A filter with the buffer that it examines: takes text and tokens, and returns what may be sent."""

    def __init__(self, output_filter: OutputFilter) -> None:
        self.filter = output_filter
        self._buffer = TokenBuffer()

    def feed(self, piece: Delta) -> Delta:
        """Feed the next piece. Return what may be sent."""
        self._buffer.add(piece.text, piece.token_ids, piece.token_count, piece.logprobs)
        return self._release()

    def flush(self) -> Delta:
        """End the text. Return everything that was held back and may be sent."""
        return self._release(final=True)

    def _release(self, *, final: bool = False) -> Delta:
        self.filter.examine(self._buffer, self._buffer.total, final=final)
        self._buffer.settle(self.filter.safe)
        return self._buffer.release()


def joined(parts: Sequence[Delta]) -> Delta:
    """The text and the tokens of all pieces."""
    return delta(
        "".join(part.text for part in parts),
        [token_id for part in parts for token_id in part.token_ids],
        sum(part.token_count for part in parts),
        [entry for part in parts for entry in part.logprobs],
    )


def tokens(parts: Sequence[str]) -> list[Delta]:
    """One token for each part, numbered, with a log probability."""
    return [
        delta(part, [n], 1, [ScoredToken(n, part, part.encode(errors="surrogatepass"), -float(n))])
        for n, part in enumerate(parts)
    ]


@dataclass(frozen=True)
class Expected:
    """The expected output of a filter."""

    text: str
    rule: str | None
    named: list[int]
    """The tokens that are sent with their ids."""
    count: int
    redacted: set[str]


def expected(parts: Sequence[str], rules: Sequence[Rule]) -> Expected:
    """Filter the joined parts as a whole, one token for each part."""
    text = "".join(parts)
    spans = sorted({span for r in rules for span in spans_of(text, r)}, key=lambda span: span.rank)
    block = next((span for span in spans if span.rule.action is Action.BLOCK), None)
    end = block.start if block else len(text)
    hidden = [span for span in spans if span.start < end and span.rule.action is Action.REDACT]
    covered = {place for span in hidden for place in range(span.start, span.end)}
    shown = "".join(_shown(text, place, covered, hidden) for place in range(end))
    named, count, offset = [], 0, 0
    for number, part in enumerate(parts):
        before, offset = offset, offset + len(part)
        if offset <= end:
            count += 1
            inside = covered & set(range(before, offset)) if part else {before - 1, before} <= covered
            named += [] if inside and not _at_a_joint(part, before, hidden) else [number]
    return Expected(shown, block.rule.name if block else None, named, count, {s.rule.name for s in hidden})


def _shown(text: str, place: int, covered: set[int], hidden: Sequence[Span]) -> str:
    if place not in covered:
        return text[place]
    if place - 1 in covered:
        return ""
    return next(span.rule.replacement for span in hidden if span.start == place)


def _at_a_joint(part: str, place: int, hidden: Sequence[Span]) -> bool:
    """Whether a token without text lies between two adjacent matches, and so in neither."""
    return not part and not any(span.start < place < span.end for span in hidden)


def spans_of(text: str, r: Rule) -> Iterator[Span]:
    """Find every match of a rule by brute force."""
    for phrase in r.phrases:
        folding = FOLDINGS[r.ignore_case]
        folded, origins = folding.trace(text, 0)
        folded_phrase = folding.fold(phrase)
        for at in range(len(folded) - len(folded_phrase) + 1):
            end = at + len(folded_phrase)
            if folded[at:end] == folded_phrase and _allowed(folded, at, end, r):
                yield Span(origins[at], origins[end - 1] + 1, r)
    for pattern in r.patterns:
        expression = re.compile(pattern, re.IGNORECASE if r.ignore_case else 0)
        for at in range(len(text)):
            for end in range(at + 1, len(text) + 1):
                if expression.fullmatch(text, at, end) and _allowed(text, at, end, r):
                    yield Span(at, end, r)


def _allowed(text: str, start: int, end: int, r: Rule) -> bool:
    around = text[max(0, start - 1) : start] + text[end : end + 1]
    return not r.whole_word or not any(map(is_word, around))


@st.composite
def rule_sets(draw: st.DrawFn, text: str, actions: Sequence[Action] = tuple(Action)) -> list[Rule]:
    """One to four rules, many of which match in `text`, overlap, or have common beginnings."""
    return [
        rule(
            f"rule {order}",
            order=order,
            action=draw(st.sampled_from(actions)),
            replacement=draw(st.sampled_from(["", "#", "[gone]"])),
            phrases=tuple(draw(_phrases(text))),
            patterns=tuple(draw(st.lists(st.sampled_from(PATTERNS), max_size=2))),
            ignore_case=draw(st.booleans()),
            whole_word=draw(st.booleans()),
        )
        for order in range(draw(st.integers(1, 4)))
    ]


@st.composite
def _phrases(draw: st.DrawFn, text: str) -> list[str]:
    found = draw(st.lists(st.text(alphabet=LETTERS.strip(), min_size=1, max_size=5), min_size=1, max_size=2))
    if text and draw(st.booleans()):
        at = draw(st.integers(0, len(text) - 1))
        found.append(text[at : at + draw(st.integers(1, 8))] + draw(st.sampled_from(["", "", "!"])))
    return [phrase for phrase in found if FOLDINGS[True].fold(phrase).strip()]


def write(path: Path, *lines: str) -> Path:
    """Replace a file as editors do: write a new file and rename it."""
    draft = path.with_name(path.name + ".draft")
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return draft.replace(path)
