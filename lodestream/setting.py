"""One setting: a field of a settings model, as a flag, a variable and a key of the settings file."""

from __future__ import annotations

import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

PREFIX = "LODESTREAM_"


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of a settings model. Its forms, its type and its help all follow from the field."""

    name: str
    """The field's name, and the key in the settings file."""
    field: FieldInfo

    @property
    def flag(self) -> str:
        """As an argument: `--max-concurrency`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """As an environment variable: `LODESTREAM_MAX_CONCURRENCY`."""
        return PREFIX + self.name.upper()

    @property
    def type(self) -> Any:
        """The type of a value that is set: `int` for a field of `int | None`."""
        annotation = self.field.annotation
        if get_origin(annotation) in (Union, types.UnionType):
            return next(option for option in get_args(annotation) if option is not type(None))
        return annotation

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off: `--strict`, `--no-strict`."""
        return self.type is bool

    @property
    def is_mapping(self) -> bool:
        """Whether it takes pairs of texts: `--alias NAME=ID`."""
        return get_origin(self.type) is dict

    @property
    def choices(self) -> tuple[str, ...]:
        """The only values there are; empty where there is no such list."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def metavar(self) -> str:
        """What stands for the value in the help."""
        if self.choices:
            return "{" + ",".join(self.choices) + "}"
        if self.name.endswith("address"):
            return "HOST:PORT"
        return "NAME=ID" if self.is_mapping else {int: "N", float: "X", Path: "PATH"}.get(self.type, "TEXT")

    @property
    def default(self) -> Any:
        """The value where nobody sets one."""
        return self.field.get_default(call_default_factory=True)

    @property
    def range(self) -> str:
        """The accepted numbers in words; empty where any will do."""
        bounds: dict[str, Any] = {}
        for rule in self.field.metadata:
            bounds |= {kind: getattr(rule, kind) for kind in ("ge", "gt", "le", "lt") if hasattr(rule, kind)}
        if "ge" in bounds and "le" in bounds:
            return f"from {bounds['ge']} to {bounds['le']}"
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        return ", ".join(f"{words[kind]} {bound}" for kind, bound in bounds.items())

    @property
    def expected(self) -> str:
        """What a value must be, to complete `... is not`."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.is_mapping:
            return "NAME=ID"
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
        facts_text = "; ".join(fact for fact in facts if fact)
        return (
            f"{self.field.description or ''} [{facts_text}]" if facts_text else self.field.description or ""
        )

    @property
    def default_text(self) -> str:
        """The default as a person would type it; empty where there is none."""
        if self.is_switch:
            return "on" if self.default else "off"
        if self.default is None or self.default == {}:
            return ""
        text = f"{self.default:g}" if self.type is float else str(self.default)
        return text.replace(str(Path.home()), "~", 1) if self.type is Path else text


def settings_of(*models: type[BaseModel]) -> dict[str, Setting]:
    """Every setting of some models by name, each once, in order."""
    found: dict[str, Setting] = {}
    for model in models:
        for name, field in model.model_fields.items():
            found.setdefault(name, Setting(name, field))
    return found
