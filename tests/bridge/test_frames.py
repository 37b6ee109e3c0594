from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_client import Delta, Finished, FinishReason, StopCause, Summary, Timings, Usage
from rest_bridge.frames import CHAT, COMPLETION, Frames, Shape, error_frame
from rest_bridge.schemas.chat import ChatCompletionChunk
from rest_bridge.schemas.completions import CompletionChunk

ENDED = Finished(0, FinishReason.LENGTH, StopCause.MAX_TOKENS)
SUMMARY = Summary(Usage(3, 2, 1), Timings(1, 2, 3, 4))


def frames(shape: Shape = CHAT, *, usage: bool = False, ids: bool = False, model: str = "m") -> Frames:
    return Frames(shape, model, 7, with_usage=usage, with_token_ids=ids)


def payloads(raw: bytes) -> list[dict[str, Any]]:
    """The JSON of each event; fails on anything that is not framed as one."""
    events = raw.decode().split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events if event != "data: [DONE]"]


@given(st.text())
def test_a_spliced_chunk_is_the_chunk_of_a_json_library(text: str) -> None:
    """Any text arrives whole, as one event that the documented schema accepts."""
    (chunk,) = payloads(frames(ids=True).render(Delta(0, text, (5, 6), 2)))

    ChatCompletionChunk.model_validate(chunk)
    assert chunk["choices"] == [
        {
            "index": 0,
            "delta": {"content": text},
            "logprobs": None,
            "finish_reason": None,
            "token_ids": [5, 6],
        }
    ]


@given(st.text(min_size=1))
def test_no_reader_of_lines_can_cut_an_event(text: str) -> None:
    """Not even one that takes every Unicode line break for one: an event has one line."""
    raw = frames(COMPLETION).render(Delta(0, text, (), 1))

    assert len(raw.decode().splitlines()) == 2


@pytest.mark.parametrize("text", ["\u2028", "\u2029", "\u0085", "a\r\nb", "\x1c\x1d\x1e\x0b\x0c", "\x00"])
def test_line_breaks_arrive(text: str) -> None:
    """Escaped on the way, they are the same text at the end."""
    (chunk,) = payloads(frames(COMPLETION).render(Delta(0, text, (), 1)))

    assert chunk["choices"][0]["text"] == text


def test_chat_begins_with_the_role_and_ends_with_an_empty_delta() -> None:
    """The first chunk says who speaks, the last one why it ended, and [DONE] is last."""
    made = frames()
    (opening,) = payloads(made.opening())
    (ending,) = payloads(made.render(ENDED))

    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert opening["choices"][0]["finish_reason"] is None
    assert ending["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert made.render(SUMMARY) == b""
    assert made.closing() == b"data: [DONE]\n\n"


def test_completions_have_text_and_no_role() -> None:
    """Chunks of a completion are completions themselves."""
    made = frames(COMPLETION)
    (ending,) = payloads(made.render(ENDED))

    CompletionChunk.model_validate(ending)
    assert made.opening() == b""
    assert ending["object"] == "text_completion"
    assert ending["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]


def test_usage_comes_once_and_only_if_asked_for() -> None:
    """One more chunk without choices; all others say null."""
    made = frames(usage=True)
    chunks = payloads(made.opening() + made.render(Delta(0, "x", (1,), 1)) + made.render(ENDED))
    made.render(SUMMARY)
    (last,) = payloads(made.closing())

    assert [chunk["usage"] for chunk in chunks] == [None, None, None]
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert all("usage" not in chunk for chunk in payloads(frames().opening()))


def test_an_empty_delta_is_sent_only_for_its_ids() -> None:
    """Tokens whose text is still held back make no event, unless their ids were asked for."""
    delta = Delta(0, "", (9,), 1)

    assert frames().render(delta) == b""
    assert payloads(frames(ids=True).render(delta))[0]["choices"][0]["token_ids"] == [9]


def test_all_chunks_share_one_head() -> None:
    """Id, creation time and the model as the caller named it are the same in every chunk."""
    made = frames(model='my "alias"\u2028')
    chunks = payloads(made.opening() + made.render(Delta(1, "x", (), 1)) + made.render(ENDED))

    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["id"].startswith("chatcmpl-")
    assert {(chunk["created"], chunk["model"]) for chunk in chunks} == {(7, 'my "alias"\u2028')}
    assert [chunk["choices"][0]["index"] for chunk in chunks] == [0, 1, 0]


def test_an_error_is_one_event() -> None:
    """Its payload is the body of an error."""
    assert error_frame({"error": {"code": "x\u2028"}}) == b'data: {"error":{"code":"x\\u2028"}}\n\n'
