from __future__ import annotations

import json
import math

from rest_bridge.openai import response_schemas as schemas
from rest_bridge.openai.responses import CompletionLogprobs, chat_logprobs
from tests.rest_bridge.rendering import token

EURO = [token("\ufffd", raw=bytes([byte])) for byte in "€".encode()]
"""A character in three tokens."""


def test_parts_of_a_character_have_their_bytes() -> None:
    """A conversation gives the bytes of each, which joined are the character."""
    content = chat_logprobs()(EURO)["content"]

    schemas.ChatLogprobs.model_validate({"content": content, "refusal": None})
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == "€"
    assert {entry["token"] for entry in content} == {"\ufffd"}


def test_control_tokens_have_no_bytes() -> None:
    """Null, as OpenAI's schema has it for tokens without a representation."""
    (entry,) = chat_logprobs()([token("<|im_end|>", raw=b"")])["content"]

    assert entry["bytes"] is None


def test_what_cannot_be_is_minus_9999() -> None:
    """JSON knows no infinity."""
    never = token("x", -math.inf, token("y", -math.inf))

    assert chat_logprobs()([never])["content"][0]["logprob"] == -9999.0
    told = CompletionLogprobs()([never])
    assert (told["token_logprobs"], told["top_logprobs"]) == ([-9999.0], [{"y": -9999.0, "x": -9999.0}])


def test_completions_name_parts_of_a_character_by_their_bytes() -> None:
    """So that no two alternatives at a place have one name."""
    told = CompletionLogprobs()([token("\ufffd", -1.0, EURO[1], EURO[2], raw=b"\xe2")])

    schemas.CompletionLogprobs.model_validate(json.loads(json.dumps(told)))
    assert told["tokens"] == ["bytes:\\xe2"]
    assert set(told["top_logprobs"][0]) == {"bytes:\\x82", "bytes:\\xac", "bytes:\\xe2"}


def test_offsets_count_characters() -> None:
    """A token within a character begins where that does, the next one after it."""
    told = CompletionLogprobs()([token("aé"), *EURO, token("<|x|>", raw=b""), token("b")])

    assert told["text_offset"] == [0, 2, 2, 2, 3, 3]


def test_the_token_itself_is_among_the_likeliest() -> None:
    """As OpenAI has it; of two tokens with one name the likelier is told."""
    told = CompletionLogprobs()([token("z", -3.0, token("a", -1.0), token("a", -2.0))])

    assert told["top_logprobs"] == [{"a": -1.0, "z": -3.0}]
