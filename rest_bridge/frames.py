"""The events of a stream as text: what does not change is rendered once, what does is spliced in."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from inference_client import Delta, Event, Finished, Summary
from rest_bridge.convert import Json, finish_reason, new_id, usage

DONE = b"data: [DONE]\n\n"
_END = b"}\n\n"
# JSON leaves these as they are, but readers that split lines as Unicode does would cut an event in two.
_LINE_BREAKS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the chunks of one endpoint look. Each field is the JSON text of a part of a choice."""

    prefix: str
    """Of the reply's id."""
    kind: str
    """`object` of a chunk."""
    opening: bytes | None
    """What the first chunk says before any text; None: there is none."""
    before_text: bytes
    after_text: bytes
    ending: bytes
    """What the last chunk of a choice has in the place of text."""


CHAT = Shape(
    prefix="chatcmpl",
    kind="chat.completion.chunk",
    opening=b'"delta":{"role":"assistant","content":"","refusal":null}',
    before_text=b'"delta":{"content":',
    after_text=b"}",
    ending=b'"delta":{}',
)
COMPLETION = Shape(
    prefix="cmpl",
    kind="text_completion",
    opening=None,
    before_text=b'"text":',
    after_text=b"",
    ending=b'"text":""',
)


class Frames:
    """Renders the events of one stream, each as the bytes that go out for it.

    Args:
        shape: the endpoint's.
        model: the name that the caller used.
        created: seconds since the Unix epoch.
        with_usage: one more chunk says the token counts.
        with_token_ids: choices carry the ids behind the text.

    """

    __slots__ = ("_head", "_shape", "_tail", "_usage", "_with_token_ids", "_with_usage")

    def __init__(
        self, shape: Shape, model: str, created: int, *, with_usage: bool, with_token_ids: bool
    ) -> None:
        common = {"id": new_id(shape.prefix), "object": shape.kind, "created": created, "model": model}
        self._shape = shape
        self._head = b"data: " + _one_line(orjson.dumps(common))[:-1] + b',"choices":['
        # Where usage is asked for, every other chunk says that it has none.
        self._tail = b'],"usage":null' + _END if with_usage else b"]" + _END
        self._with_usage = with_usage
        self._with_token_ids = with_token_ids
        self._usage: Json | None = None

    def opening(self) -> bytes:
        """What goes out before the first event."""
        return b"" if self._shape.opening is None else self._choice(0, self._shape.opening)

    def render(self, event: Event) -> bytes:
        """What goes out for one event; may be nothing."""
        if isinstance(event, Delta):
            return self._delta(event)
        if isinstance(event, Finished):
            return self._choice(event.choice_index, self._shape.ending, finish_reason(event.reason))
        if isinstance(event, Summary):
            self._usage = usage(event.usage)
        return b""

    def closing(self) -> bytes:
        """What goes out after the last event of a stream that went well."""
        if not self._with_usage:
            return DONE
        return self._head + b'],"usage":' + orjson.dumps(self._usage) + _END + DONE

    def _delta(self, delta: Delta) -> bytes:
        if self._with_token_ids:
            return self._choice(delta.choice_index, self._text(delta.text), token_ids=delta.token_ids)
        return self._choice(delta.choice_index, self._text(delta.text)) if delta.text else b""

    def _text(self, text: str) -> bytes:
        quoted = orjson.dumps(text) if text.isascii() else _one_line(orjson.dumps(text))
        return self._shape.before_text + quoted + self._shape.after_text

    def _choice(
        self, index: int, content: bytes, reason: str | None = None, token_ids: tuple[int, ...] | None = None
    ) -> bytes:
        ending = b"null" if reason is None else b'"%s"' % reason.encode()
        ids = b"" if token_ids is None else b',"token_ids":' + orjson.dumps(token_ids)
        return b'%s{"index":%d,%s,"logprobs":null,"finish_reason":%s%s}%s' % (
            self._head,
            index,
            content,
            ending,
            ids,
            self._tail,
        )


def error_frame(body: Json) -> bytes:
    """The event that ends a stream that failed."""
    return b"data: " + _one_line(orjson.dumps(body)) + b"\n\n"


def _one_line(json: bytes) -> bytes:
    for raw, escaped in _LINE_BREAKS:
        json = json.replace(raw, escaped)
    return json
