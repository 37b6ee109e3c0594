"""Splitting what the model writes into content and calls, while it is being written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from inference_service.generation.tools.call_reader import CallReader, NoCall
from inference_service.generation.tools.ids import CallIds
from inference_service.generation.tools.json_object import SPACE
from inference_service.generation.tools.types import ToolCallDelta

_MARKS = ("<|python_tag|>", "<tool_call>", "</tool_call>")
"""What models put around calls, beside brackets and separators."""

_CLOSING = "</"


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What may leave: content, and what is new of the calls."""

    content: str
    deltas: Sequence[ToolCallDelta] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.deltas)


class ToolCallParser:
    """Finds calls in the text of one choice.

    A call begins where a line does, or behind another call. It is known as one once it names a tool and
    begins an object of arguments: only until then is its text held back, and text that turns out to be
    something else leaves as the content it is, unchanged. What stands around calls goes with them: white
    space at the beginning of the output, brackets of a list, `;` and `,` between calls, the marks of a
    model's format. How the text is cut into pieces changes nothing.

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
        self._enforced = enforced
        self._names = frozenset(names)
        self._call_id = call_id
        self._max_calls = max_calls
        self._content: list[str] = []
        self._deltas: list[ToolCallDelta] = []
        self._arguments: list[str] = []
        self._state: Callable[[str], None] = self._around
        self._held: list[str] = []
        self._mark = ""
        self._is_marked = False
        self._reader = CallReader(())
        self._opened = 0
        self._completed = 0
        self._behind_call = False
        self._at_line_start = not before or before.endswith("\n")
        if not self._at_line_start:
            self._state = self._outside
        self.is_cut = False
        """Whether the text was cut within a call."""

    @property
    def called(self) -> bool:
        """Whether calls were made and all of them are whole: their arguments are complete JSON.

        False with a call that the end of the text cut off, or whose arguments went on as no JSON can:
        all the text behind that is part of them.
        """
        return 0 < self._completed == self._opened

    @property
    def is_complete(self) -> bool:
        """Whether the last call that is allowed was made: no text after it counts."""
        return self._completed == self._max_calls

    def feed(self, text: str) -> ToolOutput:
        """Take the next piece of text in."""
        for char in text:
            if self.is_complete:
                break
            self._state(char)
        return self._leave()

    def finish(self, *, cut: bool = False) -> ToolOutput:
        """The text ended: what was held back leaves, if it is not part of a call.

        Args:
            cut: it was ended by something else than the model.

        """
        if self._state == self._inside and self._reader.has_arguments and self._reader.is_open:
            self._complete()
        has_begun = cut and self._has_begun()
        self.is_cut = has_begun or (cut and self._completed < self._opened)
        between = self._behind_call and (
            self._state == self._around or (cut and self._state == self._within_mark)
        )
        if not (has_begun or between):
            self._content += self._held
        self._held.clear()
        return self._leave()

    def _has_begun(self) -> bool:
        """Whether what is held back is the beginning of a call."""
        if self._state == self._inside:
            return self._behind_call or self._is_marked or self._reader.is_named
        if self._state == self._within_mark:
            fitting = [mark for mark in _MARKS if mark.startswith(self._mark)]
            return all(len(mark) < 2 * len(self._mark) for mark in fitting)
        return self._state == self._around and self._is_marked

    def _leave(self) -> ToolOutput:
        self._flush_arguments()
        content = "" if self._enforced else "".join(self._content)
        output = ToolOutput(content, tuple(self._deltas))
        self._content.clear()
        self._deltas.clear()
        return output

    def _flush_arguments(self) -> None:
        if self._arguments:
            text = "".join(self._arguments)
            self._deltas.append(ToolCallDelta(self._opened - 1, None, None, text))
            self._arguments.clear()

    def _outside(self, char: str) -> None:
        if self._at_line_start and char in "{[<":
            self._state = self._around
            self._around(char)
            return
        self._content.append(char)
        self._at_line_start = char == "\n"

    def _around(self, char: str) -> None:
        self._held.append(char)
        if char == "{":
            self._reader = CallReader(self._names)
            self._state = self._inside
        elif char == "<":
            self._mark = char
            self._state = self._within_mark
        elif not (char in SPACE or char == "[" or (self._behind_call and char in "],;")):
            self._give_up()

    def _within_mark(self, char: str) -> None:
        self._held.append(char)
        self._mark += char
        if self._mark in _MARKS:
            self._is_marked = not self._mark.startswith(_CLOSING)
            self._state = self._around
        elif not any(mark.startswith(self._mark) for mark in _MARKS):
            self._give_up()

    def _inside(self, char: str) -> None:
        self._held.append(char)
        try:
            self._reader.feed(char)
        except NoCall:
            self._on_no_call()
            return
        if self._reader.is_open:
            self._on_open()
        if self._reader.is_done:
            self._complete()

    def _on_open(self) -> None:
        if self._opened == self._completed:
            self._flush_arguments()
            self._deltas.append(
                ToolCallDelta(self._opened, self._call_id(self._opened), self._reader.name, "")
            )
            self._opened += 1
        if arguments := self._reader.take():
            self._arguments.append(arguments)
            self._held.clear()

    def _on_no_call(self) -> None:
        if self._reader.is_open and not self._reader.has_arguments:
            # Nothing tells where broken arguments end, and what is behind them may be no call.
            self._arguments += self._held
            self._held.clear()
            self._state = self._arguments.append
            return
        if self._reader.is_open:
            self._completed += 1
        self._give_up()

    def _complete(self) -> None:
        self._completed += 1
        self._behind_call = True
        self._is_marked = False
        self._held.clear()
        self._state = self._around

    def _give_up(self) -> None:
        """Let go of what was held back: it is content. Its last character may begin something else."""
        char = self._held.pop()
        text = "".join(self._held)
        self._held.clear()
        self._behind_call = self._is_marked = False
        self._content.append(text)
        self._at_line_start = text.endswith("\n")
        self._state = self._outside
        self._outside(char)
