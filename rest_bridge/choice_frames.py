"""The chunks of one choice of a stream: what does not change is rendered once, what does is spliced in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from inference_client import Delta, Finished
from rest_bridge.answer import finish_reason
from rest_bridge.logprobs import CompletionLogprobs, LogprobsWriter, chat_logprobs
from rest_bridge.tool_calls import call_piece
from rest_bridge.wanted import Wanted

# JSON leaves these as they are, but readers that split lines as Unicode does would cut an event in two.
_LINE_BREAKS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def dump(value: Any) -> bytes:
    """JSON in one line, for readers of every kind."""
    return _one_line(orjson.dumps(value))


@dataclass(frozen=True, slots=True)
class Shape:
    """How the chunks of one endpoint look. Bytes are the JSON text of a part of a choice."""

    prefix: str
    """Of the reply's id."""
    kind: str
    """`object` of a chunk."""
    opening: bytes | None
    """What the first chunk of a choice says before any text; None: there is none."""
    silent_opening: bytes | None
    """The same where it is not known whether there will be text."""
    before_text: bytes
    after_text: bytes
    nothing: bytes
    """What a chunk without text has in its place, as the last one of a choice."""
    logprobs: Callable[[], LogprobsWriter]


CHAT = Shape(
    prefix="chatcmpl",
    kind="chat.completion.chunk",
    opening=b'"delta":{"role":"assistant","content":"","refusal":null}',
    silent_opening=b'"delta":{"role":"assistant","content":null,"refusal":null}',
    before_text=b'"delta":{"content":',
    after_text=b"}",
    nothing=b'"delta":{}',
    logprobs=chat_logprobs,
)
COMPLETION = Shape(
    prefix="cmpl",
    kind="text_completion",
    opening=None,
    silent_opening=None,
    before_text=b'"text":',
    after_text=b"",
    nothing=b'"text":""',
    logprobs=CompletionLogprobs,
)


class ChoiceFrames:
    """Renders a choice of nothing but text.

    Args:
        shape: the endpoint's.
        head: what a chunk has before its choice.
        tail: what it has after it.
        index: of the choice.

    """

    __slots__ = ("_after", "_before", "_head", "_shape", "_tail")

    def __init__(self, shape: Shape, head: bytes, tail: bytes, index: int) -> None:
        self._shape = shape
        self._head = b'%s{"index":%d,' % (head, index)
        self._tail = b"}" + tail
        self._before = self._head + shape.before_text
        self._after = shape.after_text + b',"logprobs":null,"finish_reason":null' + self._tail

    def opening(self, has_text: bool) -> bytes:
        """What goes out before anything else; `has_text`: it is certain that the choice has a text."""
        return self._opening(self._shape.opening)

    def delta(self, delta: Delta) -> bytes:
        """What goes out for a delta; may be nothing."""
        text = delta.text
        return self._before + _quoted(text) + self._after if text else b""

    def ending(self, finished: Finished) -> bytes:
        """What goes out for the end."""
        reason = finish_reason(finished.reason).encode()
        members = b'%s,"logprobs":null,"finish_reason":"%s"' % (self._shape.nothing, reason)
        return self._head + members + self._tail

    def _opening(self, says: bytes | None) -> bytes:
        if says is None:
            return b""
        return self._head + says + b',"logprobs":null,"finish_reason":null' + self._tail


class RichChoiceFrames(ChoiceFrames):
    """Renders a choice that may hold more than text: a small renderer for each part of a chunk."""

    __slots__ = ("_logprobs", "_wanted")

    def __init__(self, shape: Shape, head: bytes, tail: bytes, index: int, wanted: Wanted) -> None:
        super().__init__(shape, head, tail, index)
        self._wanted = wanted
        self._logprobs = shape.logprobs()

    def opening(self, has_text: bool) -> bytes:
        """What goes out before anything else. The text of a choice that only calls tools is null."""
        may_be_silent = self._wanted.tool_calls and not has_text
        return self._opening(self._shape.silent_opening if may_be_silent else self._shape.opening)

    def delta(self, delta: Delta) -> bytes:
        """What goes out for a delta; may be nothing."""
        if not (delta.text or delta.tool_calls or self._tells_of_tokens(delta)):
            return b""
        members = self._content(delta) + self._likelihoods(delta) + self._token_ids(delta)
        return self._head + members + self._tail

    def _tells_of_tokens(self, delta: Delta) -> bool:
        return bool(delta.token_ids) and (self._wanted.token_ids or self._wanted.logprobs)

    def _content(self, delta: Delta) -> bytes:
        shape = self._shape
        if not delta.tool_calls:
            return shape.before_text + _quoted(delta.text) + shape.after_text if delta.text else shape.nothing
        calls = dump([call_piece(piece) for piece in delta.tool_calls])
        content = b'"content":%s,' % _quoted(delta.text) if delta.text else b""
        return b'"delta":{%s"tool_calls":%s}' % (content, calls)

    def _likelihoods(self, delta: Delta) -> bytes:
        told = dump(self._logprobs(delta.logprobs)) if self._wanted.logprobs else b"null"
        return b',"logprobs":%s,"finish_reason":null' % told

    def _token_ids(self, delta: Delta) -> bytes:
        return b',"token_ids":' + orjson.dumps(delta.token_ids) if self._wanted.token_ids else b""


def _quoted(text: str) -> bytes:
    return orjson.dumps(text) if text.isascii() else _one_line(orjson.dumps(text))


def _one_line(json: bytes) -> bytes:
    for raw, escaped in _LINE_BREAKS:
        json = json.replace(raw, escaped)
    return json
