"""JSON as grammar: strings, numbers and values of any kind.

Compact: at most one space, behind a colon or a comma. A model that could write white space without end
sometimes does nothing else. Numbers have a bounded number of digits for the same reason; they are all
finite as 64-bit floats, and integers fit into 64 bits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from inference_service.grammar.builder import GrammarBuilder
from inference_service.grammar.nodes import (
    LAST_CODE_POINT,
    Chars,
    Literal,
    Node,
    Ref,
    char_set,
    chars,
    either,
    is_writable,
    maybe,
    repeat,
    seq,
)

MOST_DIGITS = 18
"""Of an integer."""
_MOST_DECIMALS = 16

RAW_CHARS: Chars = char_set([(0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, LAST_CODE_POINT)])
"""Characters that stand for themselves in a JSON string; DEL could, and does not."""

DIGIT = chars("09")
DIGIT_1_9 = chars("19")
_HEX = chars("09", "af", "AF")
COLON = seq(":", maybe(" "))
COMMA = seq(",", maybe(" "))

INTEGER = either("0", seq(maybe("-"), DIGIT_1_9, repeat(DIGIT, 0, MOST_DIGITS - 1)))
NUMBER = seq(
    maybe("-"),
    either("0", seq(DIGIT_1_9, repeat(DIGIT, 0, MOST_DIGITS - 1))),
    maybe(seq(".", repeat(DIGIT, 1, _MOST_DECIMALS))),
    maybe(seq(chars("e", "E"), maybe(chars("+", "-")), repeat(DIGIT, 1, 2))),
)
BOOLEAN = either("true", "false")
NULL = Literal("null")


def dumps(value: object) -> str:
    """The JSON text of a value, as compact as it gets, of writable characters.

    Raises:
        ValueError: it has none: half a surrogate pair, or no finite number.

    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text.encode()
    return text if all(map(is_writable, text)) else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    return char if is_writable(char) else json.dumps(char)[1:-1]


def json_char(builder: GrammarBuilder) -> Ref:
    """One character of a string, escaped or not; no control characters but those with a letter escape.

    Surrogates are left out: half a pair is no text, and a pair would count as two.
    """
    code = either(
        seq(chars("19", "ac", "ef", "AC", "EF"), repeat(_HEX, 3, 3)),
        seq(chars("d", "D"), chars("07"), repeat(_HEX, 2, 2)),
        seq("0", chars("19", "af", "AF"), repeat(_HEX, 2, 2)),
        seq("00", chars("29", "af", "AF"), _HEX),
    )
    escape = seq("\\", either(chars('"', "\\", "/", "b", "f", "n", "r", "t"), seq("u", code)))
    return builder.shared("json-char", lambda: either(RAW_CHARS, escape))


def json_string(builder: GrammarBuilder) -> Ref:
    return builder.shared("json-string", lambda: seq('"', repeat(json_char(builder), 0), '"'))


def json_integer(builder: GrammarBuilder) -> Ref:
    return builder.shared("json-integer", lambda: INTEGER)


def json_number(builder: GrammarBuilder) -> Ref:
    return builder.shared("json-number", lambda: NUMBER)


def json_value(builder: GrammarBuilder) -> Ref:
    """Any value, nested without limit."""
    return builder.shared(
        "json-value",
        lambda: either(
            json_object(builder),
            json_array(builder),
            json_string(builder),
            json_number(builder),
            BOOLEAN,
            NULL,
        ),
    )


def json_object(builder: GrammarBuilder) -> Ref:
    def make() -> Node:
        pair = builder.rule("json-pair", seq(json_string(builder), COLON, json_value(builder)))
        return seq("{", maybe(separated([pair])), "}")

    return builder.shared("json-object", make)


def json_array(builder: GrammarBuilder) -> Ref:
    return builder.shared("json-array", lambda: seq("[", maybe(separated([json_value(builder)])), "]"))


def separated(first: Sequence[Node], least: int = 1, most: int | None = None) -> Node:
    """Put `least` (1 or more) to `most` of the same, with commas between."""
    item = seq(*first)
    return seq(item, repeat(seq(COMMA, item), least - 1, None if most is None else most - 1))
