"""The detokenizer yields whole characters at every cut of the bytes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from inference_service.output.token_buffer import Detokenizer
from tests.support.texts import HARD_PIECES, THOROUGH, Slices, cuts, hard_texts, slices


def decoded(parts: Sequence[bytes]) -> list[str]:
    decoder = Detokenizer(Slices(parts))
    return [decoder.feed(token_id) for token_id in range(len(parts))]


@THOROUGH
@given(data=st.data(), text=hard_texts())
def test_every_cut_of_the_bytes_gives_the_text(data: st.DataObject, text: str) -> None:
    parts: list[bytes] = data.draw(cuts(text.encode()))

    pieces = decoded(parts)

    assert "".join(pieces) == text


@THOROUGH
@given(data=st.data(), text=hard_texts())
def test_the_text_after_each_token_has_only_whole_characters(data: st.DataObject, text: str) -> None:
    """The text so far has exactly the characters whose last byte has arrived."""
    parts: list[bytes] = data.draw(cuts(text.encode()))

    text_so_far = ""
    arrived = b""
    for part, piece in zip(parts, decoded(parts), strict=True):
        text_so_far, arrived = text_so_far + piece, arrived + part
        assert text.startswith(text_so_far)
        assert text_so_far.encode() == arrived[: len(text_so_far.encode())]
        assert len(arrived) - len(text_so_far.encode()) < 4


def test_single_bytes_of_every_script() -> None:
    for text in HARD_PIECES:
        whole = text.encode()
        assert "".join(decoded(slices(whole, range(len(whole))))) == text


@THOROUGH
@given(data=st.data(), whole=st.binary(max_size=40))
def test_invalid_bytes_become_replacement_characters_at_every_cut(data: st.DataObject, whole: bytes) -> None:
    parts: list[bytes] = data.draw(cuts(whole))

    decoded_text = "".join(decoded(parts))

    complete = whole.decode("utf-8", "replace")
    # An unfinished character at the very end is dropped; elsewhere the cut makes no difference.
    assert decoded_text in (complete, complete.removesuffix("\ufffd"))


def test_an_invalid_byte_is_one_replacement_character() -> None:
    assert decoded([b"a\xff", b"b"]) == ["a\ufffd", "b"]
    assert decoded(["😀".encode()[:2], b"b"]) == ["", "\ufffdb"]


def test_the_bytes_of_a_surrogate_are_invalid_at_once() -> None:
    """No third byte completes them, so they are not held back and not dropped at the end."""
    assert decoded([b"\xed", b"\xa0"]) == ["", "\ufffd\ufffd"]
    assert decoded([b"\xed\xa0", b"\x80a"]) == ["\ufffd\ufffd", "\ufffda"]
    assert decoded([b"\xed", b"\x9f", b"\xbf"]) == ["", "", "\ud7ff"]
