"""The sources of settings, derived from the fields of a model: flags, variables and a TOML file."""

from __future__ import annotations

import difflib
import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lodestream_common.errors import SettingError
from lodestream_common.ready import PARENT_PIPE, READY_FILE

PREFIX = "LODESTREAM_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a settings model, from which flag, variable, type and help are derived."""

    name: str
    """The field's name, and the key in the settings file."""
    field: FieldInfo

    @property
    def flag(self) -> str:
        """The flag: `--max-concurrency`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable: `LODESTREAM_MAX_CONCURRENCY`."""
        return PREFIX + self.name.upper()

    @property
    def type(self) -> Any:
        """The type of a value: `int` for a field of `int | None`."""
        annotation = self.field.annotation
        if get_origin(annotation) in (Union, types.UnionType):
            return next(option for option in get_args(annotation) if option is not type(None))
        return annotation

    @property
    def is_switch(self) -> bool:
        """Whether it is a boolean: `--strict`, `--no-strict`."""
        return self.type is bool

    @property
    def is_mapping(self) -> bool:
        """Whether its values are pairs: `--alias NAME=ID`."""
        return get_origin(self.type) is dict

    @property
    def is_list(self) -> bool:
        """Whether it may be given more than once: `--cors-origin A --cors-origin B`."""
        return get_origin(self.type) is tuple

    @property
    def choices(self) -> tuple[str, ...]:
        """The accepted values, if the type lists them, else empty."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def metavar(self) -> str:
        """The placeholder of the value in the help."""
        if self.choices:
            return "{" + ",".join(self.choices) + "}"
        if self.name.endswith("address"):
            return "HOST:PORT"
        return "NAME=ID" if self.is_mapping else {int: "N", float: "X", Path: "PATH"}.get(self.type, "TEXT")

    @property
    def default(self) -> Any:
        """The value of a setting that is not given."""
        return self.field.get_default(call_default_factory=True)

    @property
    def range(self) -> str:
        """The range of a number in words; empty if there is none."""
        bounds: dict[str, Any] = {}
        for rule in self.field.metadata:
            bounds |= {kind: getattr(rule, kind) for kind in ("ge", "gt", "le", "lt") if hasattr(rule, kind)}
        if "ge" in bounds and "le" in bounds:
            return f"from {bounds['ge']} to {bounds['le']}"
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        return ", ".join(f"{words[kind]} {bound}" for kind, bound in bounds.items())

    @property
    def expected(self) -> str:
        """The description of valid values, which completes `... is not`."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.is_mapping:
            return "NAME=ID"
        if self.is_list:
            return "a list of texts"
        for rule in self.field.metadata:
            if pattern := getattr(rule, "pattern", None):
                return f"text that matches {pattern}"
        kinds = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
        return f"{kinds.get(self.type, 'text')} {self.range}".strip()

    @property
    def help(self) -> str:
        """The description, with the accepted range and the default."""
        facts = [self.range, f"default: {self.default_text}" if self.default_text else ""]
        if self.is_mapping:
            facts.append(
                f'also as {self.variable}="NAME=ID,NAME=ID", or as a table [{self.name}] in the file'
            )
        if self.is_list:
            facts.append(f"several are joined by commas, also in {self.variable}; or a list in the file")
        facts_text = "; ".join(fact for fact in facts if fact)
        return (
            f"{self.field.description or ''} [{facts_text}]" if facts_text else self.field.description or ""
        )

    @property
    def default_text(self) -> str:
        """The default as typed on a command line; empty if there is none."""
        if self.is_switch:
            return "on" if self.default else "off"
        if self.default is None or self.default in ({}, ()):
            return ""
        text = f"{self.default:g}" if self.type is float else str(self.default)
        return text.replace(str(Path.home()), "~", 1) if self.type is Path else text


def settings_of(*models: type[BaseModel]) -> dict[str, Setting]:
    """The settings of some models by name, without duplicates, in the models' order."""
    found: dict[str, Setting] = {}
    for model in models:
        for name, field in model.model_fields.items():
            found.setdefault(name, Setting(name, field))
    return found


CONFIG = PREFIX + "CONFIG"
CALLER_KEY, CALLER_URL, CALLER_TARGET = PREFIX + "API_KEY", PREFIX + "URL", PREFIX + "TARGET"
"""Variables of `inference_client` and the examples. They are no settings, but may be set in the same
shell."""
_OWN_VARIABLES = frozenset({CONFIG, PARENT_PIPE, READY_FILE, CALLER_KEY, CALLER_URL, CALLER_TARGET})


@dataclass(frozen=True, slots=True)
class ProvidedValue:
    """A value of a setting, and its source."""

    value: Any
    source: str
    """`--threads`, `LODESTREAM_THREADS`, or `lodestream.toml: threads`."""


def from_flags(flags: Mapping[str, Any], known: Mapping[str, Setting]) -> dict[str, ProvidedValue]:
    """Read the settings from parsed arguments; those that are None were not given.

    Raises:
        SettingError: a pair is malformed.

    """
    return {
        name: _given(setting, flags[name], setting.flag)
        for name, setting in known.items()
        if flags.get(name) is not None
    }


def from_environment(
    environment: Mapping[str, str], known: Mapping[str, Setting]
) -> dict[str, ProvidedValue]:
    """Read every variable that begins with LODESTREAM_; an empty one counts as unset.

    Raises:
        SettingError: a variable is unknown, or a pair is malformed.

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
            several = setting.is_mapping or setting.is_list
            found[setting.name] = _given(setting, text.split(",") if several else text, variable)
    return found


def from_file(path: Path, known: Mapping[str, Setting]) -> dict[str, ProvidedValue]:
    """Read a TOML file whose keys are the names of settings.

    Raises:
        SettingError: it cannot be read, is not TOML, or has an unknown key.

    """
    found = {}
    for key, value in _read_toml(path).items():
        if key not in known:
            raise unknown(key, f"key in {path}", known)
        if isinstance(value, bool) and not known[key].is_switch:
            raise malformed(known[key], ProvidedValue(value, f"{path}: {key}"))
        found[key] = ProvidedValue(value, f"{path}: {key}")
    return found


def service_links(environment: Mapping[str, str]) -> set[str]:
    """Find the variables that Kubernetes sets for services whose names begin with `lodestream`.

    Each service has a set of them; its NAME_PORT is a URL, such as tcp://10.0.0.1:50051.
    """
    names = [
        variable.removesuffix("_PORT")
        for variable, text in environment.items()
        if variable.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", text)
    ]
    tail = r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
    return {v for v in environment if any(re.fullmatch(f"{re.escape(name)}_{tail}", v) for name in names)}


def unknown(name: str, kind: str, known: Iterable[str]) -> SettingError:
    """Make the error of an unknown name, with the nearest known one."""
    return SettingError(f"{name}: unknown {kind}{suggestion(name, known)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Write `; did you mean ...?`, or nothing if no known name is similar."""
    plain = {_plain(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.7)
    return f"; did you mean {plain[near[0]]}?" if near else ""


def malformed(setting: Setting, given: ProvidedValue) -> SettingError:
    """Make the error of a value that the setting does not accept."""
    shown = repr(given.value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return SettingError(f"{given.source}: {shown} is not {setting.expected}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").strip("_")


def _given(setting: Setting, value: Any, source: str) -> ProvidedValue:
    if setting.is_list:
        return ProvidedValue(_words(value), source)
    return ProvidedValue(_pairs(setting, value, source) if setting.is_mapping else value, source)


def _words(texts: Iterable[str]) -> list[str]:
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def _pairs(setting: Setting, texts: Iterable[str], source: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise malformed(setting, ProvidedValue(text, source))
        pairs[name] = value
    return pairs


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingError(f"{path}: the settings file cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path}: the settings file is not valid TOML: {error}") from error
