"""Grammars that would not fail in the engine, but end the process or keep it from everyone else.

llama.cpp aborts once a grammar leaves no token to choose: behind a set without characters, NUL, or a
character whose bytes the vocabulary does not have. Groups nested too deep overflow its stack, an empty
grammar is none at all, and an ambiguous one costs seconds a token (see `ambiguity.py`). What the service
compiled has little of this; still nothing goes in unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from inference_service.backends.errors import EngineGrammarError
from inference_service.backends.llama_cpp.spelling import TextEncoder

if TYPE_CHECKING:
    from inference_service.grammar.nodes import Chars, Node

REMEMBERED = 256
"""Grammars whose verdict is kept."""

_CONTINUATIONS = frozenset(range(0x80, 0xC0))


class GrammarGuard:
    """Says which grammars the engine can follow with the model's vocabulary. Safe in several threads."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._reason = lru_cache(maxsize=REMEMBERED)(self._find_reason)
        self._writable: Chars | None = None

    def check(self, grammar: str) -> None:
        """See that a grammar may enter the engine. Takes up to seconds for a large one.

        Raises:
            EngineGrammarError: it may not.

        """
        reason = self._reason(grammar)
        if reason is not None:
            raise EngineGrammarError(f"the engine cannot follow this grammar: {reason}")

    def _find_reason(self, grammar: str) -> str | None:
        # Imported late: whoever never sends a grammar need not wait for it.
        from inference_service.backends.llama_cpp.ambiguity import is_too_ambiguous
        from inference_service.grammar.check import check_rules
        from inference_service.grammar.errors import ConstraintError
        from inference_service.grammar.parser import parse_grammar

        try:
            parsed = parse_grammar(grammar)
            check_rules(parsed.rules, parsed.places)
        except ConstraintError as error:
            return str(error)
        if not all(self._can_write(node) for rule in parsed.rules.values() for node in _leaves(rule)):
            return "it has a character that the model has no token for"
        if is_too_ambiguous(parsed.rules):
            return "there are too many ways to read the same text by it"
        return None

    def _can_write(self, node: Node) -> bool:
        from inference_service.grammar.nodes import Chars, Literal, char_set, overlap

        if self._writable is None:
            self._writable = char_set(_writable_ranges(self._encoder))
        if isinstance(node, Literal):
            sets = [Chars(((ord(char), ord(char)),)) for char in set(node.text)]
        else:
            sets = [node] if isinstance(node, Chars) else []
        return all(overlap(one, self._writable).ranges for one in sets)


def _leaves(rule: Node) -> Iterator[Node]:
    from inference_service.grammar.nodes import children

    waiting = [rule]
    while waiting:
        node = waiting.pop()
        inner = children(node)
        waiting.extend(inner)
        if not inner:
            yield node


def _writable_ranges(encoder: TextEncoder) -> Iterator[tuple[int, int]]:
    """Code points that tokens of a single byte can write, as a model may have to at the worst."""
    pieces = {encoder.token_bytes(token_id) for token_id in range(encoder.vocabulary_size)}
    single = {piece[0] for piece in pieces if len(piece) == 1}
    yield from ((byte, byte) for byte in single if byte < 0x80)
    if single >= _CONTINUATIONS:
        yield from (_led_by(byte) for byte in single if 0xC2 <= byte <= 0xF4)


def _led_by(byte: int) -> tuple[int, int]:
    """The code points whose UTF-8 begins with this byte (RFC 3629, section 3)."""
    if byte < 0xE0:
        return (byte & 0x1F) << 6, (byte & 0x1F) << 6 | 0x3F
    if byte < 0xF0:
        return max(0x800, (byte & 0x0F) << 12), (byte & 0x0F) << 12 | 0xFFF
    return max(0x10000, (byte & 0x07) << 18), min(0x10FFFF, (byte & 0x07) << 18 | 0x3FFFF)
