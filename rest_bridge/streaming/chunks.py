"""Writes the events of a stream as bytes. Constant parts are rendered once, and new text goes between."""

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
    ResponseContext,
    chat_logprobs,
    finish_reason,
    new_id,
    tool_call_delta,
    usage,
)

DONE = b"data: [DONE]\n\n"
_END = b"}\n\n"
# JSON does not escape these, but a reader that splits lines as Unicode does would cut an event in two.
_LINE_BREAKS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


@dataclass(frozen=True, slots=True)
class ChunkShape:
    """The form of the chunks of one endpoint. Bytes are the JSON text of a part of a choice."""

    prefix: str
    """Prefix of the response's id."""
    kind: str
    """`object` of a chunk."""
    opening: bytes | None
    """Content of the first chunk of a choice, which has no text yet; None: no such chunk is sent."""
    opening_without_text: bytes | None
    """The same for a choice that may turn out to have no text."""
    before_text: bytes
    after_text: bytes
    empty: bytes
    """Content of a chunk without text, such as the last one of a choice."""
    logprobs: Callable[[], LogprobsWriter]


CHAT = ChunkShape(
    prefix="chatcmpl",
    kind="chat.completion.chunk",
    opening=b'"delta":{"role":"assistant","content":"","refusal":null}',
    opening_without_text=b'"delta":{"role":"assistant","content":null,"refusal":null}',
    before_text=b'"delta":{"content":',
    after_text=b"}",
    empty=b'"delta":{}',
    logprobs=chat_logprobs,
)
COMPLETION = ChunkShape(
    prefix="cmpl",
    kind="text_completion",
    opening=None,
    opening_without_text=None,
    before_text=b'"text":',
    after_text=b"",
    empty=b'"text":""',
    logprobs=CompletionLogprobs,
)


class Frames:
    """Renders the events of one stream as server-sent events.

    Args:
        shape: the endpoint's.
        context: the request, and the parts of a response that it requests.
        created: seconds since the Unix epoch.

    """

    __slots__ = ("_choices", "_context", "_endings", "_head", "_shape", "_summary", "_tail")

    def __init__(self, shape: ChunkShape, context: ResponseContext, created: int) -> None:
        common = {
            "id": new_id(shape.prefix),
            "object": shape.kind,
            "created": created,
            "model": context.model,
        }
        self._shape = shape
        self._context = context
        self._head = b"data: " + _dump(common)[:-1] + b',"choices":['
        # Where usage is requested, it is null in every chunk but the last.
        self._tail = b'],"usage":null' + _END if context.has_usage else b"]" + _END
        self._choices: list[ChoiceFrames] = []
        self._endings: list[Finished] = []
        self._summary: Summary | None = None

    @property
    def choices_started(self) -> int:
        """The number of choices that have had output."""
        return len(self._choices)

    def render(self, event: Event) -> bytes:
        """The server-sent events for one event of the generation; may be empty."""
        if isinstance(event, Delta):
            index, choices = event.choice_index, self._choices
            return choices[index].delta(event) if index < len(choices) else self._first(event)
        if isinstance(event, Finished):
            return self._ending(event)
        if isinstance(event, Summary):
            self._summary = event
        return b""

    def closing(self) -> bytes:
        """The last events of a stream without an error: usage, where it is requested, and `[DONE]`."""
        if self._summary is None or not self._context.has_usage:
            return DONE
        last = {
            "usage": usage(self._summary.usage),
            "pg_metadata": self._context.metadata(self._summary, self._endings),
        }
        return self._head + b"]," + _dump(last)[1:-1] + _END + DONE

    def _ending(self, finished: Finished) -> bytes:
        self._endings.append(finished)
        opening = self._open(finished.choice_index, has_text=True)
        return opening + self._choices[finished.choice_index].ending(finished)

    def _first(self, delta: Delta) -> bytes:
        opening = self._open(delta.choice_index, has_text=bool(delta.text))
        return opening + self._choices[delta.choice_index].delta(delta)

    def _open(self, index: int, *, has_text: bool) -> bytes:
        """The first chunks of all choices up to this one: OpenAI's SDK expects them in order."""
        frames = b""
        for number in range(len(self._choices), index + 1):
            choice = self._choice(number)
            self._choices.append(choice)
            frames += choice.opening(has_text=has_text and number == index)
        return frames

    def _choice(self, index: int) -> ChoiceFrames:
        if self._context.has_only_text:
            return ChoiceFrames(self._shape, self._head, self._tail, index)
        return RichChoiceFrames(self._shape, self._head, self._tail, index, self._context)


class ChoiceFrames:
    """Renders a choice that consists of text only.

    Args:
        shape: the endpoint's.
        head: the part of a chunk before its choice.
        tail: the part of a chunk after its choice.
        index: of the choice.

    """

    __slots__ = ("_after", "_before", "_head", "_shape", "_tail")

    def __init__(self, shape: ChunkShape, head: bytes, tail: bytes, index: int) -> None:
        self._shape = shape
        self._head = b'%s{"index":%d,' % (head, index)
        self._tail = b"}" + tail
        self._before = self._head + shape.before_text
        self._after = shape.after_text + b',"logprobs":null,"finish_reason":null' + self._tail

    def opening(self, *, has_text: bool) -> bytes:
        """The chunk before all others; `has_text`: the choice certainly has a text."""
        return self._opening(self._shape.opening)

    def delta(self, delta: Delta) -> bytes:
        """The chunk for a delta; may be empty."""
        text = delta.text
        return self._before + _quoted(text) + self._after if text else b""

    def ending(self, finished: Finished) -> bytes:
        """The last chunk, with the finish reason."""
        reason = finish_reason(finished.reason).encode()
        members = b'%s,"logprobs":null,"finish_reason":"%s"' % (self._shape.empty, reason)
        return self._head + members + self._tail

    def _opening(self, content: bytes | None) -> bytes:
        if content is None:
            return b""
        return self._head + content + b',"logprobs":null,"finish_reason":null' + self._tail


class RichChoiceFrames(ChoiceFrames):
    """Renders a choice that may have tool calls, log probabilities or token ids beside its text."""

    __slots__ = ("_context", "_logprobs")

    def __init__(
        self, shape: ChunkShape, head: bytes, tail: bytes, index: int, context: ResponseContext
    ) -> None:
        super().__init__(shape, head, tail, index)
        self._context = context
        self._logprobs = shape.logprobs()

    def opening(self, *, has_text: bool) -> bytes:
        """The chunk before all others. The text of a choice that only calls tools is null."""
        may_have_no_text = self._context.has_tool_calls and not has_text
        shape = self._shape
        return self._opening(shape.opening_without_text if may_have_no_text else shape.opening)

    def delta(self, delta: Delta) -> bytes:
        """The chunk for a delta; may be empty."""
        if not (delta.text or delta.tool_calls or self._has_token_data(delta)):
            return b""
        members = self._content(delta) + self._logprobs_member(delta) + self._token_ids_member(delta)
        return self._head + members + self._tail

    def _has_token_data(self, delta: Delta) -> bool:
        return bool(delta.token_ids) and (self._context.has_token_ids or self._context.has_logprobs)

    def _content(self, delta: Delta) -> bytes:
        shape = self._shape
        if not delta.tool_calls:
            return shape.before_text + _quoted(delta.text) + shape.after_text if delta.text else shape.empty
        calls = _dump([tool_call_delta(call) for call in delta.tool_calls])
        content = b'"content":%s,' % _quoted(delta.text) if delta.text else b""
        return b'"delta":{%s"tool_calls":%s}' % (content, calls)

    def _logprobs_member(self, delta: Delta) -> bytes:
        value = _dump(self._logprobs(delta.logprobs)) if self._context.has_logprobs else b"null"
        return b',"logprobs":%s,"finish_reason":null' % value

    def _token_ids_member(self, delta: Delta) -> bytes:
        return b',"token_ids":' + orjson.dumps(delta.token_ids) if self._context.has_token_ids else b""


def error_frame(body: Json) -> bytes:
    """The event that ends a failed stream."""
    return b"data: " + _dump(body) + b"\n\n"


def _dump(value: Any) -> bytes:
    return _one_line(orjson.dumps(value))


def _quoted(text: str) -> bytes:
    return orjson.dumps(text) if text.isascii() else _one_line(orjson.dumps(text))


def _one_line(json: bytes) -> bytes:
    """JSON without line breaks of any kind."""
    for raw, escaped in _LINE_BREAKS:
        json = json.replace(raw, escaped)
    return json
