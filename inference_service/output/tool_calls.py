"""Separates content and tool calls while the model writes them."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass

from inference_service.output.json_scanner import SPACE, MalformedJson, ObjectScanner

_MARKS = ("<|python_tag|>", "<tool_call>", "</tool_call>")
"""Characters that models put around calls, beside brackets and separators."""

_CLOSING = "</"

_ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
_KEYS = _ARGUMENT_KEYS | {"name", "type"}


@dataclass(frozen=True, slots=True)
class ContentSpan:
    """A range of text that is content."""

    start: int
    end: int
    """Offset behind the last character."""


@dataclass(frozen=True, slots=True)
class CallSpan:
    """A range of new output within one call: first its id and name, with no text, then its arguments."""

    start: int
    end: int
    index: int
    """Of the call among the calls of its choice, from 0."""
    id: str | None = None
    name: str | None = None


class ToolCallParser:
    """Finds calls in the text of one choice, and reports where its content and the arguments of calls are.

    A call begins where a line does, or behind another call. It is known as one once it names a tool and
    begins an object of arguments: only until then is its text held back, and text that turns out to be
    something else is content, unchanged. What stands around calls goes with them: white space at the
    beginning of the output, brackets of a list, `;` and `,` between calls, the marks of a model's format.
    How the text is cut into pieces changes nothing.

    Where the text is cut, a call that has begun is no content either: it has begun with the mark of a
    format, with the key of its name, or behind another call.

    Args:
        names: the tools that may be called; an object with another name is content.
        call_id: names the calls.
        max_calls: where it ends; None for no limit.
        enforced: a grammar lets the text be nothing but calls, so none of it is content.
        before: the text of the message that is continued.

    """

    def __init__(
        self,
        names: Collection[str],
        call_id: CallIds,
        max_calls: int | None = None,
        *,
        enforced: bool = False,
        before: str = "",
    ) -> None:
        self.max_calls = max_calls
        self.is_cut = False
        """Whether the text was cut within a call."""
        self._enforced = enforced
        self._names = frozenset(names)
        self._call_id = call_id
        self._spans: list[ContentSpan | CallSpan] = []
        self._read = 0
        """Length of all text that came before the latest piece."""
        self._last = ""
        """The character before the latest piece."""
        self._held_from: int | None = 0
        """The start of the text that may be part of a call; None: nothing is held back."""
        self._arguments = (0, 0)
        """The range of the arguments of the latest call that were not reported yet."""
        self._reader = _CallReader((), 0)
        self._mark = ""
        self._is_marked = False
        self._opened = 0
        self._completed = 0
        self._behind_call = False
        self._at_line_start = not before or before.endswith("\n")
        self._state: Callable[[str, int], int] = self._around
        if not self._at_line_start:
            self._leave_calls()

    @property
    def called(self) -> bool:
        """Whether there are calls and all of them are complete: their arguments are complete JSON.

        False with a call that the end of the text cut off, or whose arguments went on as no JSON can:
        all the text behind that is part of them.
        """
        return 0 < self._completed == self._opened

    @property
    def is_complete(self) -> bool:
        """Whether the last call that is allowed was made: no text after it counts."""
        return self._completed == self.max_calls

    @property
    def safe(self) -> int:
        """Length of the text that was reported, or never will be."""
        return self._read if self._held_from is None else self._held_from

    def feed(self, text: str) -> None:
        """Take the next piece of text in."""
        at = 0
        while at < len(text) and not self.is_complete:
            at = self._state(text, at)
        self._read += len(text)
        self._last = text[-1:] or self._last

    def finish(self, *, cut: bool = False) -> None:
        """End the text: what was held back is content, if it is not part of a call.

        Args:
            cut: it was ended by something else than the model.

        """
        if self._state == self._inside and self._reader.has_arguments and self._reader.is_open:
            self._complete(self._read)
        has_begun = cut and self._has_begun()
        self.is_cut = has_begun or (cut and self._completed < self._opened)
        between = self._behind_call and (
            self._state == self._around or (cut and self._state == self._within_mark)
        )
        if self._held_from is not None and not (has_begun or between):
            self._report_content(self._held_from, self._read)
        self._held_from = None

    def take(self) -> list[ContentSpan | CallSpan]:
        """Return what is new since the last time, in the order of the text."""
        self._report_arguments()
        spans, self._spans = self._spans, []
        return spans

    def _has_begun(self) -> bool:
        """Whether what is held back is the beginning of a call."""
        if self._state == self._inside:
            return self._behind_call or self._is_marked or self._reader.is_named
        if self._state == self._within_mark:
            fitting = [mark for mark in _MARKS if mark.startswith(self._mark)]
            return all(len(mark) < 2 * len(self._mark) for mark in fitting)
        return self._state == self._around and self._is_marked

    # Each state reads from text[at] and returns where the next one starts.

    def _outside(self, text: str, at: int) -> int:
        if self._at_line_start and text[at] in "{[<":
            self._held_from = self._read + at
            self._state = self._around
            return at
        end = text.find("\n", at) + 1 or len(text)
        self._at_line_start = text[end - 1] == "\n"
        self._report_content(self._read + at, self._read + end)
        return end

    def _around(self, text: str, at: int) -> int:
        char = text[at]
        if char == "{":
            self._reader = _CallReader(self._names, self._read + at + 1)
            self._state = self._inside
        elif char == "<":
            self._mark = char
            self._state = self._within_mark
        elif not (char in SPACE or char == "[" or (self._behind_call and char in "],;")):
            return self._give_up(text, at)
        return at + 1

    def _within_mark(self, text: str, at: int) -> int:
        self._mark += text[at]
        if self._mark in _MARKS:
            self._is_marked = not self._mark.startswith(_CLOSING)
            self._state = self._around
        elif not any(mark.startswith(self._mark) for mark in _MARKS):
            return self._give_up(text, at)
        return at + 1

    def _inside(self, text: str, at: int) -> int:
        reader = self._reader
        try:
            reader.feed(text[at])
        except _NoCall:
            return self._on_no_call(text, at)
        if reader.is_open:
            if self._opened == self._completed:
                self._open(reader)
            if reader.arguments_end > self._arguments[1]:
                self._arguments = (self._arguments[0], reader.arguments_end)
                self._held_from = self._read + at + 1
        if reader.is_done:
            self._complete(self._read + at + 1)
        return at + 1

    def _in_broken_arguments(self, text: str, _at: int) -> int:
        self._arguments = (self._arguments[0], self._read + len(text))
        return len(text)

    def _open(self, reader: _CallReader) -> None:
        self._report_arguments()
        start = reader.arguments_start
        name, call_id = reader.name, self._call_id(self._opened)
        self._spans.append(CallSpan(start, start, self._opened, call_id, name))
        self._arguments = (start, start)
        self._opened += 1

    def _on_no_call(self, text: str, at: int) -> int:
        if self._reader.is_open and not self._reader.has_arguments:
            # Broken arguments have no known end, and the text after them may be no call.
            self._held_from = None
            self._state = self._in_broken_arguments
            return at
        if self._reader.is_open:
            if self._completed + 1 == self.max_calls:
                self._complete(self._read + at)
                return at
            self._completed += 1
        return self._give_up(text, at)

    def _complete(self, end: int) -> None:
        self._completed += 1
        self._behind_call = True
        self._is_marked = False
        self._held_from = end
        self._state = self._around

    def _give_up(self, text: str, at: int) -> int:
        """Report what was held back as content. The character at `at` may begin something else."""
        end = self._read + at
        start = end if self._held_from is None else self._held_from
        self._report_content(start, end)
        self._at_line_start = start < end and (text[at - 1] if at else self._last) == "\n"
        self._leave_calls()
        return at

    def _leave_calls(self) -> None:
        self._held_from = None
        self._behind_call = self._is_marked = False
        self._state = self._outside

    def _report_content(self, start: int, end: int) -> None:
        if start < end and not self._enforced:
            self._spans.append(ContentSpan(start, end))

    def _report_arguments(self) -> None:
        start, end = self._arguments
        if start < end:
            self._spans.append(CallSpan(start, end, self._opened - 1))
            self._arguments = (end, end)


class _NoCall(Exception):
    """Expected: the text is no call, or not any more."""


class _CallReader:
    """Recognizes `{"name": ..., "arguments": {...}}` of a known tool, behind its opening brace.

    The members may come in any order. `parameters` goes for `arguments` as some models were trained to
    say, and so does a further member `"type": "function"`.

    Args:
        names: the tools.
        start: offset of the first character that is fed.

    """

    def __init__(self, names: Collection[str], start: int) -> None:
        self._names = names
        self._position = start - 1
        """Offset of the latest character."""
        self._scanner: ObjectScanner | None = None
        self._text = self._read()
        next(self._text)
        self.arguments_start = self.arguments_end = -1
        """Where the arguments are, as far as they were read; -1 before they begin."""
        self.name: str | None = None
        self.is_named = False
        """Whether its name is being read, or was: so far it is that of one of the tools."""
        self.is_done = False
        """Whether the call's own closing brace was met."""

    @property
    def is_open(self) -> bool:
        """Whether it is known to be a call: of one of the tools, with an object of arguments."""
        return self.name is not None and self._scanner is not None

    @property
    def has_arguments(self) -> bool:
        """Whether the arguments are complete."""
        return self._scanner is not None and self._scanner.is_complete

    def feed(self, char: str) -> None:
        """Take the next character in.

        Raises:
            _NoCall: no call continues with it.

        """
        self._position += 1
        try:
            self._text.send(char)
        except StopIteration:
            self.is_done = True
        except MalformedJson as error:
            raise _NoCall from error

    def _read(self) -> Generator[None, str, None]:
        keys = _KEYS
        char = ","
        while char == ",":
            key = yield from _word((yield from _visible()), keys)
            keys -= _ARGUMENT_KEYS if key in _ARGUMENT_KEYS else {key}
            if (yield from _visible()) != ":":
                raise _NoCall
            yield from self._member(key, (yield from _visible()))
            char = yield from _visible()
        if char != "}" or not self.is_open:
            raise _NoCall

    def _member(self, key: str, first: str) -> Generator[None, str, None]:
        if key == "name":
            self.is_named = True
            self.name = yield from _word(first, self._names)
        elif key == "type":
            yield from _word(first, ("function",))
        else:
            yield from self._object(first)

    def _object(self, char: str) -> Generator[None, str, None]:
        scanner = ObjectScanner()
        scanner.feed(char)
        self._scanner = scanner
        self.arguments_start = self._position
        self.arguments_end = self._position + 1
        while not scanner.is_complete:
            scanner.feed((yield))
            self.arguments_end += 1


def _visible() -> Generator[None, str, str]:
    char = yield
    while char in SPACE:
        char = yield
    return char


def _word(first: str, words: Collection[str]) -> Generator[None, str, str]:
    """Read one of the words, in quotes; give up at the first character that none of them has."""
    if first != '"':
        raise _NoCall
    text = ""
    while (char := (yield)) != '"':
        text += char
        if not any(word.startswith(text) for word in words):
            raise _NoCall
    if text not in words:
        raise _NoCall
    return text


CallIds = Callable[[int], str]
"""The id of a call, by its index."""


def call_ids(seed: int, prompt: Sequence[int], choice: int = 0) -> CallIds:
    """Ids that are the same whenever a request is repeated with its seed.

    The prompt is part of them because a conversation often keeps its seed from request to request, and
    no two calls of one conversation may have the same id.

    Args:
        seed: the request's.
        prompt: its token ids.
        choice: index of the choice that makes the calls.

    """
    base = hashlib.sha256(f"{seed} {choice} ".encode() + array("q", prompt).tobytes())

    def call_id(index: int) -> str:
        digest = base.copy()
        digest.update(str(index).encode())
        return f"call_{digest.hexdigest()[:24]}"

    return call_id
