"""Writes strings as grammar: their length, patterns, formats, and excluded texts.

Formats are patterns whose every match is valid. Some are narrower than the format: seconds end at 59, and an
email address has no quoted parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

from inference_service.constraints.automata import is_empty, lengths
from inference_service.constraints.json_schema.facts import Counts
from inference_service.constraints.json_text import free_string, string, written
from inference_service.constraints.nodes import (
    ANY_CHAR,
    NOTHING,
    Complement,
    Literal,
    Node,
    both,
    either,
    repeat,
)
from inference_service.constraints.regex import found_text

AS_GOOD_AS_ENDLESS = 1_000_000


def string_node(languages: Iterable[Node], length: Counts, excluded: Iterable[str]) -> Node:
    """Describe the JSON strings of all these languages, of a length, and none of the excluded texts.

    Raises:
        ConstraintError: it is too large to tell whether there are any.

    """
    language = text_language(languages, length, excluded)
    if language == NOTHING:
        return NOTHING
    return free_string(*_limits(length)) if language is None else string(written(language))


def text_language(languages: Iterable[Node], length: Counts, excluded: Iterable[str] = ()) -> Node | None:
    """The texts of such strings, not yet written as JSON; None where only their length is limited."""
    least, most = _limits(length)
    parts = list(dict.fromkeys(languages))
    texts = [Literal(text) for text in dict.fromkeys(excluded)]
    if not parts and not texts:
        return None
    bounds = [lengths(part) for part in parts]
    is_within = any(
        shortest >= least and (most is None or (longest is not None and longest <= most))
        for shortest, longest in bounds
    )
    if not is_within and (least or most is not None):
        parts.append(repeat(ANY_CHAR, least, most))
    if texts:
        parts.append(Complement(either(*texts)))
    if len(parts) == 1 and isinstance(parts[0], Complement):
        parts.insert(0, repeat(ANY_CHAR, 0))
    language = both(*parts)
    return NOTHING if is_empty(language) else language


def _limits(length: Counts) -> tuple[int, int | None]:
    most = length.most
    return length.least, None if most is None or most >= AS_GOOD_AS_ENDLESS else most


_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_FOURTHS = "(?:0[48]|[2468][048]|[13579][26])"
_LEAP_YEAR = f"(?:[0-9]{{2}}{_FOURTHS}|{_FOURTHS}00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_HOUR_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR_MINUTE}:[0-5][0-9](?:\.[0-9]+)?(?:[Zz]|[+\-]{_HOUR_MINUTE})"
_DAYS = "[0-9]+D"
_CLOCK = "(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"

_HEX = "[0-9a-fA-F]"
_GROUP = f"{_HEX}{{1,4}}"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_IPV6 = (
    "(?:"
    + "|".join(
        (
            f"(?:{_GROUP}:){{7}}{_GROUP}",
            f"(?:{_GROUP}:){{1,7}}:",
            *(f"(?:{_GROUP}:){{1,{7 - n}}}(?::{_GROUP}){{1,{n}}}" for n in range(1, 7)),
            f":(?::{_GROUP}){{1,7}}",
            "::",
            f"(?:{_GROUP}:){{6}}{_IPV4}",
            f"::(?:{_GROUP}:){{0,5}}{_IPV4}",
        )
    )
    + ")"
)

_SHORT_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9\\-]{0,28}[a-zA-Z0-9])?"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9\\-]{0,60}[a-zA-Z0-9])?"
_HOST = rf"(?:{_SHORT_LABEL}(?:\.{_SHORT_LABEL}){{0,7}}|{_LABEL}(?:\.{_LABEL}){{0,3}})"
"""At most 253 characters, whichever of the two it is."""
_ATOM = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~\\-]+"

_PERCENT = f"%{_HEX}{{2}}"
_UNRESERVED = r"a-zA-Z0-9\-._~!$&'()*+,;="
_SEGMENT = f"(?:[{_UNRESERVED}:@]|{_PERCENT})*"
_REST = f"(?:[{_UNRESERVED}:@/?]|{_PERCENT})*"
_AUTHORITY = (
    rf"(?:(?:[{_UNRESERVED}:]|{_PERCENT})*@)?(?:\[{_IPV6}\]|(?:[{_UNRESERVED}]|{_PERCENT})*)(?::[0-9]*)?"
)
_TAIL = rf"(?:\?{_REST})?(?:#{_REST})?"
_PIECE = f"(?:[{_UNRESERVED}:@]|{_PERCENT})"
_ROOTLESS = f"{_PIECE}+(?:/{_SEGMENT})*"
_ABSOLUTE = f"/(?:{_ROOTLESS})?"
_HIERARCHY = f"(?://{_AUTHORITY}(?:/{_SEGMENT})*|{_ABSOLUTE}|{_ROOTLESS}|)"
_URI = rf"[a-zA-Z][a-zA-Z0-9+.\-]*:{_HIERARCHY}{_TAIL}"
_NO_SCHEME = f"(?:[{_UNRESERVED}@]|{_PERCENT})+(?:/{_SEGMENT})*"
_RELATIVE = f"(?://{_AUTHORITY}(?:/{_SEGMENT})*|{_ABSOLUTE}|{_NO_SCHEME}|){_TAIL}"

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "date": _DATE,
        "date-time": f"{_DATE}[Tt]{_TIME}",
        "duration": f"P(?:[0-9]+W|T{_CLOCK}|{_DAYS}(?:T{_CLOCK})?|[0-9]+M(?:{_DAYS})?(?:T{_CLOCK})?"
        f"|[0-9]+Y(?:[0-9]+M(?:{_DAYS})?)?(?:T{_CLOCK})?)",
        "email": rf"{_ATOM}(?:\.{_ATOM})*@{_HOST}",
        "hostname": _HOST,
        "ipv4": _IPV4,
        "ipv6": _IPV6,
        "json-pointer": "(?:/(?:[^~/]|~[01])*)*",
        "time": _TIME,
        "uri": _URI,
        "uri-reference": f"(?:{_URI}|{_RELATIVE})",
        "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    }
)
"""Formats of strings."""

NUMBER_FORMATS: Mapping[str, tuple[int, int] | None] = MappingProxyType(
    {
        "int32": (-(2**31), 2**31 - 1),
        "int64": (-(2**63), 2**63 - 1),
        "float": None,
        "double": None,
    }
)
"""Formats of numbers, with their ranges; None where every number has the format."""


@lru_cache(maxsize=64)
def language_of_format(name: str) -> Node | None:
    """The strings of a format; None if it is not known."""
    pattern = FORMATS.get(name)
    return None if pattern is None else found_text(f"^(?:{pattern})$")
