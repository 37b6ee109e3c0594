"""Tokens to text: whole characters at every cut of the bytes, and each token once."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from inference_service.generation.text import HoldBuffer, IncrementalDecoder, Piece
from tests.support.texts import HARD_PIECES, THOROUGH, Slices, cuts, hard_texts, slices


def decoded(parts: Sequence[bytes]) -> list[str]:
    decoder = IncrementalDecoder(Slices(parts))
    return [decoder.feed(token_id) for token_id in range(len(parts))]


@THOROUGH
@given(data=st.data(), text=hard_texts())
def test_every_cut_of_the_bytes_gives_the_text(data: st.DataObject, text: str) -> None:
    parts: list[bytes] = data.draw(cuts(text.encode()))

    pieces = decoded(parts)

    assert "".join(pieces) == text


@THOROUGH
@given(data=st.data(), text=hard_texts())
def test_after_each_token_there_are_only_whole_characters(data: st.DataObject, text: str) -> None:
    """What has been said is always the characters whose last byte has arrived, no more and no less."""
    parts: list[bytes] = data.draw(cuts(text.encode()))

    said = ""
    arrived = b""
    for part, piece in zip(parts, decoded(parts), strict=True):
        said, arrived = said + piece, arrived + part
        assert text.startswith(said)
        assert said.encode() == arrived[: len(said.encode())]
        assert len(arrived) - len(said.encode()) < 4


def test_single_bytes_of_every_script() -> None:
    for text in HARD_PIECES:
        whole = text.encode()
        assert "".join(decoded(slices(whole, range(len(whole))))) == text


@THOROUGH
@given(data=st.data(), whole=st.binary(max_size=40))
def test_bytes_that_are_no_text_become_replacement_characters_at_every_cut(
    data: st.DataObject, whole: bytes
) -> None:
    parts: list[bytes] = data.draw(cuts(whole))

    said = "".join(decoded(parts))

    complete = whole.decode("utf-8", "replace")
    # An unfinished character at the very end is dropped; elsewhere the cut makes no difference.
    assert said in (complete, complete.removesuffix("\ufffd"))


def test_a_truly_invalid_byte_is_one_replacement_character() -> None:
    assert decoded([b"a\xff", b"b"]) == ["a\ufffd", "b"]
    assert decoded(["😀".encode()[:2], b"b"]) == ["", "\ufffdb"]


@THOROUGH
@given(data=st.data())
def test_tokens_leave_once_in_order_and_with_the_last_of_their_text(data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text(max_size=4), max_size=12))
    whole = "".join(texts)
    marks = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    buffer = HoldBuffer()
    for number, text in enumerate(texts):
        buffer.add(Piece(text, [number], 1))

    left: list[int] = []
    said = ""
    for mark in marks:
        release = buffer.release(mark)
        said += release.text
        left += release.token_ids
        assert said == whole[:mark]
        assert left == [n for n in range(len(texts)) if len("".join(texts[: n + 1])) <= mark][: len(left)]
        assert release.token_count == len(release.token_ids)
    rest = buffer.release_all()

    assert said + rest.text == whole
    assert [*left, *rest.token_ids] == list(range(len(texts)))


def test_an_empty_release_is_false() -> None:
    buffer = HoldBuffer()
    buffer.add(Piece("ab", [7], 1))

    assert not buffer.release(0)
    assert buffer.release(1)
    assert buffer.release(2).token_ids == [7]


def test_tokens_without_names_are_counted() -> None:
    buffer = HoldBuffer()
    buffer.add(Piece("😀", [9], 3))

    release = buffer.release_all()

    assert (release.token_ids, release.token_count) == ([9], 3)
