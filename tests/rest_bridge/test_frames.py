from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_client import Delta, Event, Finished, FinishReason, StopCause, ToolCallDelta
from rest_bridge.openai.response_schemas import ChatCompletionChunk, CompletionChunk
from rest_bridge.streaming.chunks import CHAT, COMPLETION, ChunkShape, Frames, error_frame
from tests.rest_bridge.rendering import ENDED, SUMMARY, payloads, response_context, token

OPENING = {"role": "assistant", "content": "", "refusal": None}
SILENT_OPENING = {**OPENING, "content": None}


def frames(shape: ChunkShape = CHAT, **flags: bool) -> Frames:
    return Frames(shape, response_context("m", **flags), 7)


def opened(shape: ChunkShape = CHAT, **flags: bool) -> Frames:
    """Frames whose first choice has had output."""
    made = frames(shape, **flags)
    made.render(Delta(0, "x", (1,), 1))
    return made


def choices(raw: bytes) -> list[dict[str, Any]]:
    """The one choice of each event."""
    return [chunk["choices"][0] for chunk in payloads(raw)]


@given(st.text(min_size=1))
def test_a_spliced_chunk_equals_that_of_a_json_library(text: str) -> None:
    """Any text is one event that the documented schema accepts."""
    (plain,) = payloads(opened().render(Delta(0, text, (5, 6), 2)))
    (rich,) = payloads(opened(token_ids=True).render(Delta(0, text, (5, 6), 2)))

    ChatCompletionChunk.model_validate(plain)
    ChatCompletionChunk.model_validate(rich)
    expected = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    assert plain["choices"] == [expected]
    assert rich["choices"] == [{**expected, "token_ids": [5, 6]}]


@given(st.text(min_size=1))
def test_no_line_reader_can_split_an_event(text: str) -> None:
    """An event has no line break, not even a Unicode one."""
    raw = frames(COMPLETION).render(Delta(0, text, (), 1))
    call = opened(tool_calls=True).render(Delta(0, "", (), 1, (), (ToolCallDelta(0, text, text, text),)))

    assert len(raw.decode().splitlines()) == 2
    assert len(call.decode().splitlines()) == 2


@pytest.mark.parametrize("text", ["\u2028", "\u2029", "\u0085", "a\r\nb", "\x1c\x1d\x1e\x0b\x0c", "\x00"])
def test_escaped_line_breaks_arrive(text: str) -> None:
    """They are escaped in the event, and unchanged after parsing."""
    (choice,) = choices(frames(COMPLETION).render(Delta(0, text, (), 1)))

    assert choice["text"] == text


def test_chat_begins_with_the_role_and_ends_with_an_empty_delta() -> None:
    """The first chunk has the role, the last one the finish reason, and [DONE] follows."""
    made = frames()
    opening, first = choices(made.render(Delta(0, "x", (1,), 1)))
    (ending,) = choices(made.render(ENDED))

    assert (opening["delta"], opening["finish_reason"]) == (OPENING, None)
    assert first["delta"] == {"content": "x"}
    assert ending == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert made.render(SUMMARY) == b""
    assert made.closing() == b"data: [DONE]\n\n"


def test_a_choice_without_output_has_a_first_chunk() -> None:
    """It has the role with an empty text, then the end; an example is a blocked prompt."""
    opening, ending = choices(
        frames(tool_calls=True).render(
            Finished(0, FinishReason.CONTENT_FILTER, StopCause.CONTENT_FILTER, filter_rule="r")
        )
    )

    assert opening["delta"] == OPENING
    assert ending["finish_reason"] == "content_filter"


def test_each_choice_has_its_own_beginning_and_end() -> None:
    """The roles of interleaved choices come first, once and in order, as OpenAI's SDK expects."""
    made = frames()
    events: list[Event] = [Delta(n, text, (1,), 1) for n, text in ((1, "a"), (0, "b"), (1, "c"), (0, "d"))]
    events += [Finished(n, FinishReason.STOP, StopCause.END_OF_SEQUENCE) for n in (0, 2, 1)]
    found = choices(b"".join(made.render(event) for event in events))

    for index, text in ((0, "bd"), (1, "ac"), (2, "")):
        deltas = [choice["delta"] for choice in found if choice["index"] == index]
        assert deltas == [OPENING, *({"content": character} for character in text), {}]
    assert [choice["index"] for choice in found] == [0, 1, 1, 0, 1, 0, 0, 2, 2, 1]


def test_completions_have_text_and_no_role() -> None:
    """Chunks of a completion have the format of completions."""
    made = opened(COMPLETION)
    (ending,) = payloads(made.render(ENDED))

    CompletionChunk.model_validate(ending)
    assert frames(COMPLETION).render(Delta(0, "", (1,), 1)) == b""
    assert ending["object"] == "text_completion"
    assert ending["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]


@pytest.mark.parametrize(("shape", "schema"), [(CHAT, ChatCompletionChunk), (COMPLETION, CompletionChunk)])
def test_the_last_chunk_has_usage_and_metadata(shape: ChunkShape, schema: Any) -> None:
    """On request it has the usage and the metadata, without choices; the usage of other chunks is null."""
    made = frames(shape, usage=True)
    chunks = payloads(made.render(Delta(0, "x", (1,), 1)) + made.render(ENDED))
    made.render(SUMMARY)
    (last,) = payloads(made.closing())

    schema.model_validate(last)
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert last["pg_metadata"]["batch_size"] == 3
    assert [ending["cause"] for ending in last["pg_metadata"]["choices"]] == ["max_tokens"]
    assert all("usage" not in chunk for chunk in payloads(frames().render(ENDED)))


def test_an_empty_delta_is_sent_only_if_it_reports_tokens() -> None:
    """Tokens with held-back text make no event, unless their ids or log probabilities were requested."""
    delta = Delta(0, "", (9,), 1, (token("x"),))

    assert opened().render(delta) == b""
    assert opened(tool_calls=True).render(delta) == b""
    assert choices(opened(token_ids=True).render(delta))[0]["token_ids"] == [9]
    assert choices(opened(logprobs=True).render(delta))[0]["logprobs"]["content"][0]["token"] == "x"


def test_chat_chunks_have_log_probabilities() -> None:
    """They have one entry for each token of the chunk, and null in chunks without tokens."""
    made = frames(logprobs=True)
    delta = Delta(0, "hi", (1, 2), 2, (token("h", -0.1, token("h", -0.1)), token("i")))
    opening, first = payloads(made.render(delta))
    (ending,) = choices(made.render(ENDED))

    ChatCompletionChunk.model_validate(first)
    assert opening["choices"][0]["logprobs"] is None
    assert first["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "h",
                "bytes": [104],
                "logprob": -0.1,
                "top_logprobs": [{"token": "h", "bytes": [104], "logprob": -0.1}],
            },
            {"token": "i", "bytes": [105], "logprob": -0.5, "top_logprobs": []},
        ],
        "refusal": None,
    }
    assert ending["logprobs"] is None


def test_completions_count_characters_from_chunk_to_chunk() -> None:
    """`text_offset` continues from the last chunk of the choice; choices are counted separately."""
    made = frames(COMPLETION, logprobs=True)
    events = [Delta(0, "ab", (1,), 1, (token("ab"),)), Delta(1, "é", (1,), 1, (token("é"),))]
    events += [Delta(0, "c", (1,), 1, (token("c"),)), Delta(1, "d", (1,), 1, (token("d"),))]
    found = payloads(b"".join(made.render(event) for event in events))

    CompletionChunk.model_validate(found[0])
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in found] == [[0], [0], [2], [1]]


def test_tool_calls_are_streamed_in_pieces() -> None:
    """Id, type and name come first, then the arguments; a choice of only calls has no text."""
    made = frames(tool_calls=True)
    pieces = [ToolCallDelta(0, "call_1", "f", ""), ToolCallDelta(0, None, None, '{"a":')]
    pieces.append(ToolCallDelta(0, None, None, "1}"))
    raw = b"".join(made.render(Delta(0, "", (), 0, (), (piece,))) for piece in pieces)
    raw += made.render(Finished(0, FinishReason.TOOL_CALLS, StopCause.END_OF_SEQUENCE))
    for chunk in payloads(raw):
        ChatCompletionChunk.model_validate(chunk)

    found = choices(raw)
    assert [choice["delta"] for choice in found] == [
        SILENT_OPENING,
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "f", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {},
    ]
    assert found[-1]["finish_reason"] == "tool_calls"


def test_tokens_of_a_call_have_no_text() -> None:
    """Their log probabilities come in a delta without content, so that no client adds an empty text."""
    made = frames(tool_calls=True, logprobs=True)
    opening, chunk = choices(made.render(Delta(0, "", (1,), 1, (token("{"),))))

    assert (opening["delta"], chunk["delta"]) == (SILENT_OPENING, {})
    assert chunk["logprobs"]["content"][0]["token"] == "{"


def test_text_and_calls_share_a_chunk() -> None:
    """The service sends them together."""
    delta = Delta(0, "x", (), 0, (), (ToolCallDelta(0, "i", "f", "{}"), ToolCallDelta(1, "j", "g", "")))
    opening, both = choices(frames(tool_calls=True).render(delta))

    assert opening["delta"] == OPENING
    assert both["delta"]["content"] == "x"
    assert [call["id"] for call in both["delta"]["tool_calls"]] == ["i", "j"]


def test_all_chunks_have_the_same_id_time_and_model() -> None:
    """The model has the name that the caller used."""
    made = Frames(CHAT, response_context('my "alias"\u2028'), 7)
    chunks = payloads(made.render(Delta(1, "x", (), 1)) + made.render(ENDED))

    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["id"].startswith("chatcmpl-")
    assert {(chunk["created"], chunk["model"]) for chunk in chunks} == {(7, 'my "alias"\u2028')}


def test_an_error_is_one_event() -> None:
    """Its payload is the usual error body."""
    assert error_frame({"error": {"code": "x\u2028"}}) == b'data: {"error":{"code":"x\\u2028"}}\n\n'
