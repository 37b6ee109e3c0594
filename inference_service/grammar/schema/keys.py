"""Names of members that are none of the known ones."""

from __future__ import annotations

from collections.abc import Iterable

from inference_service.grammar.json_text import RAW_CHARS, dumps
from inference_service.grammar.nodes import EMPTY, Chars, Node, complement, either, overlap, repeat, seq


def key_except(names: Iterable[str]) -> Node:
    """Describe the JSON strings that are none of these, written without any escape.

    An escape could spell a known name in another way.
    """
    texts = sorted({dumps(name)[1:-1] for name in names})
    return seq('"', _other_than([text for text in texts if "\\" not in text]), '"')


def _other_than(texts: list[str]) -> Node:
    """What differs from all of them; `texts` are what is left of the names behind a common beginning."""
    options: list[Node] = [] if "" in texts else [EMPTY]
    firsts = sorted({text[0] for text in texts if text})
    for first in firsts:
        rest = _other_than([text[1:] for text in texts if text.startswith(first)])
        options.append(seq(first, rest))
    different: Chars = overlap(RAW_CHARS, complement([(ord(first), ord(first)) for first in firsts]))
    options.append(seq(different, repeat(RAW_CHARS, 0)))
    return either(*options)
