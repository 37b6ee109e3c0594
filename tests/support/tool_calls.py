"""Feeds text to a parser of tool calls and reads its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference_service.output.tool_calls import ContentSpan, ToolCallParser
from inference_service.prompt.conversation import ToolCallDelta


@dataclass(frozen=True)
class Divided:
    """The result for a piece of text: content, and the new parts of calls."""

    content: str
    deltas: Sequence[ToolCallDelta] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.deltas)


class Reader:
    """Feeds a parser, and reads the texts at the offsets that it reports."""

    def __init__(self, parser: ToolCallParser) -> None:
        self.parser = parser
        self._text = ""
        self._reported = 0

    def feed(self, text: str) -> Divided:
        """Feed the next piece of text. Return what may be sent."""
        self._text += text
        self.parser.feed(text)
        return self._take()

    def finish(self, *, cut: bool = False) -> Divided:
        """End the text. Return what was held back."""
        self.parser.finish(cut=cut)
        return self._take()

    def _take(self) -> Divided:
        content, deltas = "", []
        for span in self.parser.take():
            # The buffer no longer holds text that was released.
            assert self._reported <= span.start <= span.end <= len(self._text)
            text = self._text[span.start : span.end]
            if isinstance(span, ContentSpan):
                content += text
            else:
                deltas.append(ToolCallDelta(span.index, span.id, span.name, text))
        assert self._reported <= self.parser.safe <= len(self._text)
        self._reported = self.parser.safe
        return Divided(content, deltas)
