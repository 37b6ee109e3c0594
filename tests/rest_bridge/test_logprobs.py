from __future__ import annotations

import json
import math

from rest_bridge.openai import response_schemas as schemas
from rest_bridge.openai.responses import CompletionLogprobs, chat_logprobs
from tests.rest_bridge.rendering import token

EURO = [token("\ufffd", raw=bytes([byte])) for byte in "€".encode()]
"""The tokens of one character, in three parts."""


def test_partial_characters_have_bytes() -> None:
    """In chats each token has its bytes, which join to the character."""
    content = chat_logprobs()(EURO)["content"]

    schemas.ChatLogprobs.model_validate({"content": content, "refusal": None})
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == "€"
    assert {entry["token"] for entry in content} == {"\ufffd"}


def test_control_tokens_have_no_bytes() -> None:
    """They have null, as OpenAI's schema demands for tokens without bytes."""
    (entry,) = chat_logprobs()([token("<|im_end|>", raw=b"")])["content"]

    assert entry["bytes"] is None


def test_an_impossible_token_has_minus_9999() -> None:
    """JSON has no infinity."""
    never = token("x", -math.inf, token("y", -math.inf))

    assert chat_logprobs()([never])["content"][0]["logprob"] == -9999.0
    logprobs = CompletionLogprobs()([never])
    assert (logprobs["token_logprobs"], logprobs["top_logprobs"]) == (
        [-9999.0],
        [{"y": -9999.0, "x": -9999.0}],
    )


def test_completions_name_partial_characters_by_their_bytes() -> None:
    """So all alternatives at a position have different names."""
    logprobs = CompletionLogprobs()([token("\ufffd", -1.0, EURO[1], EURO[2], raw=b"\xe2")])

    schemas.CompletionLogprobs.model_validate(json.loads(json.dumps(logprobs)))
    assert logprobs["tokens"] == ["bytes:\\xe2"]
    assert set(logprobs["top_logprobs"][0]) == {"bytes:\\x82", "bytes:\\xac", "bytes:\\xe2"}


def test_offsets_count_characters() -> None:
    """A token inside a character has the character's offset, and the next token the offset after it."""
    logprobs = CompletionLogprobs()([token("aé"), *EURO, token("<|x|>", raw=b""), token("b")])

    assert logprobs["text_offset"] == [0, 2, 2, 2, 3, 3]


def test_the_token_itself_is_among_the_likeliest() -> None:
    """OpenAI does the same; of two tokens with the same name the likelier one is listed."""
    logprobs = CompletionLogprobs()([token("z", -3.0, token("a", -1.0), token("a", -2.0))])

    assert logprobs["top_logprobs"] == [{"a": -1.0, "z": -3.0}]
