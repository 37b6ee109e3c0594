"""Tokens at offsets of a text: each is released once, in order, and with the end of its text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference_service.output.events import Delta, ScoredToken
from inference_service.output.token_buffer import TokenBuffer
from tests.support.filtering import delta
from tests.support.texts import THOROUGH


def release(buffer: TokenBuffer, upto: int) -> Delta:
    """Settle the text before an offset, and release it."""
    buffer.settle(upto)
    return buffer.release()


@THOROUGH
@given(data=st.data())
def test_tokens_are_released_once_in_order_and_with_the_end_of_their_text(data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text(max_size=4), max_size=12))
    whole = "".join(texts)
    marks = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    buffer = TokenBuffer()
    for number, text in enumerate(texts):
        buffer.add(text, [number], 1)

    left: list[int] = []
    text_so_far = ""
    for mark in marks:
        released = release(buffer, mark)
        text_so_far += released.text
        left += released.token_ids
        assert text_so_far == whole[:mark]
        assert left == [n for n in range(len(texts)) if len("".join(texts[: n + 1])) <= mark][: len(left)]
        assert released.token_count == len(released.token_ids)
    rest = release(buffer, buffer.total)

    assert text_so_far + rest.text == whole
    assert [*left, *rest.token_ids] == list(range(len(texts)))


def test_an_empty_release_is_false() -> None:
    buffer = TokenBuffer()
    buffer.add("ab", [7], 1)

    assert not release(buffer, 0)
    assert release(buffer, 1)
    assert release(buffer, 2).token_ids == [7]


def test_tokens_without_ids_are_counted() -> None:
    buffer = TokenBuffer()
    buffer.add("😀", [9], 3)

    left = release(buffer, buffer.total)

    assert (left.token_ids, left.token_count) == ([9], 3)


def test_text_that_was_settled_in_parts_is_released_together() -> None:
    one, two = ScoredToken(1, "a", b"a", -1.0), ScoredToken(2, "b", b"b", -2.0)
    buffer = TokenBuffer()
    buffer.add("a", [1], 2, [one])
    buffer.add("b", [2], 1, [two])
    buffer.settle(1)
    buffer.settle(2)

    assert buffer.release() == delta("ab", [1, 2], 3, [one, two])
    assert not buffer.release()


def test_settled_text_may_be_released_later_than_its_tokens() -> None:
    """An example is the beginning of a tool call that may turn out to be content."""
    buffer = TokenBuffer()
    buffer.add("abc", [1], 1)

    assert buffer.settle(3) == "abc"
    assert buffer.release(1) == delta("a", [1], 1)
    assert buffer.settled_text(1, 3) == "bc"
    assert buffer.release() == delta("bc", [], 0)


def test_offsets_of_settled_text_count_its_redactions() -> None:
    buffer = TokenBuffer()
    buffer.add("a bad b", [1], 1)
    buffer.redact(2, 5, "[gone]")
    buffer.settle(7)
    buffer.add("c", [2], 1)
    buffer.settle(8)

    assert buffer.settled_text(8, 11) == " bc"
    assert buffer.release() == delta("a [gone] bc", [2], 2)


def test_a_token_is_hidden_if_any_of_its_text_is_redacted() -> None:
    """The token has the redacted text and the beginning of a character that the second token completes."""
    buffer = TokenBuffer()
    buffer.add("bad", [1], 1, ends_within_character=True)
    buffer.add("😀", [2], 1)
    buffer.redact(0, 3, "*")

    assert release(buffer, 4) == delta("*😀", [2], 2)


def test_tokens_of_an_incomplete_character_are_released_without_text() -> None:
    buffer = TokenBuffer()
    buffer.add("a", [1], 1)
    buffer.add("", [2], 1, ends_within_character=True)
    assert release(buffer, 1) == delta("a", [1], 1)

    buffer.finish_tokens()

    assert release(buffer, 1) == delta("", [2], 1)
