"""Formats of strings, as patterns whose every match is valid.

Some are narrower than the format: years have four digits from 1000 on, seconds end at 59, addresses have
no quoted parts, an IPv6 address has all its eight groups, and a URI names an authority.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_YEAR = "[1-9][0-9]{3}"
_LEAP_YEAR = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_HOUR_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR_MINUTE}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+\-]{_HOUR_MINUTE})"
_HEX = "[0-9a-fA-F]"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9\\-]{0,30}[a-zA-Z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"
_DOMAIN = rf"(?:{_LABEL}\.){{1,3}}[a-zA-Z]{{2,24}}"
_ATOM = "[a-zA-Z0-9_+\\-]{1,20}"
_PATH_CHAR = r"[a-zA-Z0-9\-._~!$&'()*+,;=:@]"
_DAYS = "[0-9]{1,4}D"
_CLOCK = "(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?|[0-9]{1,4}M(?:[0-9]{1,4}S)?|[0-9]{1,4}S)"

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "date": _DATE,
        "date-time": f"{_DATE}T{_TIME}",
        "duration": f"P(?:[0-9]{{1,4}}W|T{_CLOCK}|{_DAYS}(?:T{_CLOCK})?"
        f"|[0-9]{{1,4}}M(?:{_DAYS})?(?:T{_CLOCK})?|[0-9]{{1,4}}Y(?:[0-9]{{1,4}}M(?:{_DAYS})?)?(?:T{_CLOCK})?)",
        "email": rf"{_ATOM}(?:\.{_ATOM}){{0,2}}@{_DOMAIN}",
        "hostname": _HOST,
        "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
        "ipv6": f"{_HEX}{{1,4}}(?::{_HEX}{{1,4}}){{7}}",
        "time": _TIME,
        "uri": rf"[a-z][a-z0-9+.\-]{{0,15}}://{_HOST}(?::[1-9][0-9]{{0,3}})?(?:/{_PATH_CHAR}{{0,60}}){{0,8}}"
        rf"(?:\?{_PATH_CHAR}{{0,60}})?(?:#{_PATH_CHAR}{{0,60}})?",
        "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    }
)
