"""Where the values of settings come from: flags, environment variables, a TOML file."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lodestream.setting import PREFIX, Setting
from lodestream_common.errors import SettingError
from lodestream_common.ready import PARENT_PIPE, READY_FILE

CONFIG = PREFIX + "CONFIG"
CALLER_KEY, CALLER_URL, CALLER_TARGET = PREFIX + "API_KEY", PREFIX + "URL", PREFIX + "TARGET"
"""What callers set for `inference_client` and the examples: no settings, but a shell may hold them."""
_OWN_VARIABLES = frozenset({CONFIG, PARENT_PIPE, READY_FILE, CALLER_KEY, CALLER_URL, CALLER_TARGET})


@dataclass(frozen=True, slots=True)
class Given:
    """A value that somebody set, and where."""

    value: Any
    source: str
    """`--threads`, `LODESTREAM_THREADS`, or `lodestream.toml: threads`."""


def from_flags(flags: Mapping[str, Any], known: Mapping[str, Setting]) -> dict[str, Given]:
    """Take the settings out of parsed arguments, where those that nobody gave are None.

    Raises:
        SettingError: a pair is malformed.

    """
    return {
        name: _given(setting, flags[name], setting.flag)
        for name, setting in known.items()
        if flags.get(name) is not None
    }


def from_environment(environment: Mapping[str, str], known: Mapping[str, Setting]) -> dict[str, Given]:
    """Read every variable that begins with LODESTREAM_; an empty one counts as unset.

    Raises:
        SettingError: nobody knows the variable, or a pair is malformed.

    """
    by_variable = {setting.variable: setting for setting in known.values()}
    injected = service_links(environment)
    found = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in _OWN_VARIABLES or variable in injected:
            continue
        if variable not in by_variable:
            raise unknown(variable, "environment variable", [*by_variable, *sorted(_OWN_VARIABLES)])
        if text:
            setting = by_variable[variable]
            found[setting.name] = _given(setting, text.split(",") if setting.is_mapping else text, variable)
    return found


def from_file(path: Path, known: Mapping[str, Setting]) -> dict[str, Given]:
    """Read a TOML file whose keys are the names of settings.

    Raises:
        SettingError: it cannot be read, is not TOML, or has a key that nobody knows.

    """
    found = {}
    for key, value in _read_toml(path).items():
        if key not in known:
            raise unknown(key, f"key in {path}", known)
        if isinstance(value, bool) and not known[key].is_switch:
            raise malformed(known[key], Given(value, f"{path}: {key}"))
        found[key] = Given(value, f"{path}: {key}")
    return found


def service_links(environment: Mapping[str, str]) -> set[str]:
    """Find the variables that Kubernetes sets for services whose names begin with `lodestream`.

    They come in sets, known by a NAME_PORT that holds a URL (tcp://10.0.0.1:50051).
    """
    names = [
        variable.removesuffix("_PORT")
        for variable, text in environment.items()
        if variable.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", text)
    ]
    tail = r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
    return {v for v in environment if any(re.fullmatch(f"{re.escape(name)}_{tail}", v) for name in names)}


def unknown(name: str, kind: str, known: Iterable[str]) -> SettingError:
    """Make the error of a name that nobody knows, with the nearest known one."""
    return SettingError(f"{name}: unknown {kind}{suggestion(name, known)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Ask `; did you mean ...?`, or nothing where no known name is near."""
    plain = {_plain(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.7)
    return f"; did you mean {plain[near[0]]}?" if near else ""


def malformed(setting: Setting, given: Given) -> SettingError:
    """Make the error of a value that the setting does not accept."""
    shown = repr(given.value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return SettingError(f"{given.source}: {shown} is not {setting.expected}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").strip("_")


def _given(setting: Setting, value: Any, source: str) -> Given:
    return Given(_pairs(setting, value, source) if setting.is_mapping else value, source)


def _pairs(setting: Setting, texts: Iterable[str], source: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise malformed(setting, Given(text, source))
        pairs[name] = value
    return pairs


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingError(f"{path}: the settings file cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path}: the settings file is not valid TOML: {error}") from error
