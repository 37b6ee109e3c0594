"""The events of a stream as text: what does not change is rendered once, the rest is spliced in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from inference_client import Delta, Event, Finished, Summary
from rest_bridge.openai.responses import (
    CompletionLogprobs,
    Json,
    LogprobsWriter,
    ReplyOptions,
    ResponseMetadata,
    call_piece,
    chat_logprobs,
    finish_reason,
    new_id,
    usage,
)

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

    def __init__(self, shape: Shape, head: bytes, tail: bytes, index: int, wanted: ReplyOptions) -> None:
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


DONE = b"data: [DONE]\n\n"
_END = b"}\n\n"


class Frames:
    """Renders the events of one stream, each as the bytes that go out for it.

    Args:
        shape: the endpoint's.
        model: the name that the caller used.
        created: seconds since the Unix epoch.
        wanted: what there is beside text.
        account: tells what became of the request.

    """

    __slots__ = ("_account", "_choices", "_endings", "_head", "_shape", "_summary", "_tail", "_wanted")

    def __init__(
        self, shape: Shape, model: str, wanted: ReplyOptions, account: ResponseMetadata, created: int
    ) -> None:
        common = {"id": new_id(shape.prefix), "object": shape.kind, "created": created, "model": model}
        self._shape = shape
        self._wanted = wanted
        self._account = account
        self._head = b"data: " + dump(common)[:-1] + b',"choices":['
        # Where usage is asked for, every other chunk says that it has none.
        self._tail = b'],"usage":null' + _END if wanted.usage else b"]" + _END
        self._choices: list[ChoiceFrames] = []
        self._endings: list[Finished] = []
        self._summary: Summary | None = None

    @property
    def choices_begun(self) -> int:
        """How many choices have had output."""
        return len(self._choices)

    def render(self, event: Event) -> bytes:
        """What goes out for one event; may be nothing."""
        if isinstance(event, Delta):
            index, choices = event.choice_index, self._choices
            return choices[index].delta(event) if index < len(choices) else self._first(event)
        if isinstance(event, Finished):
            return self._ending(event)
        if isinstance(event, Summary):
            self._summary = event
        return b""

    def closing(self) -> bytes:
        """What goes out after the last event of a stream that went well."""
        if self._summary is None or not self._wanted.usage:
            return DONE
        last = {
            "usage": usage(self._summary.usage),
            "pg_metadata": self._account.metadata(self._summary, self._endings),
        }
        return self._head + b"]," + dump(last)[1:-1] + _END + DONE

    def _ending(self, finished: Finished) -> bytes:
        self._endings.append(finished)
        opening = self._open(finished.choice_index, has_text=True)
        return opening + self._choices[finished.choice_index].ending(finished)

    def _first(self, delta: Delta) -> bytes:
        opening = self._open(delta.choice_index, has_text=bool(delta.text))
        return opening + self._choices[delta.choice_index].delta(delta)

    def _open(self, index: int, *, has_text: bool) -> bytes:
        """The beginnings of all choices up to this one: in order, as OpenAI's SDK expects them."""
        frames = b""
        for number in range(len(self._choices), index + 1):
            choice = self._choice(number)
            self._choices.append(choice)
            frames += choice.opening(has_text and number == index)
        return frames

    def _choice(self, index: int) -> ChoiceFrames:
        if self._wanted.only_text:
            return ChoiceFrames(self._shape, self._head, self._tail, index)
        return RichChoiceFrames(self._shape, self._head, self._tail, index, self._wanted)


def error_frame(body: Json) -> bytes:
    """The event that ends a stream that failed."""
    return b"data: " + dump(body) + b"\n\n"
