"""Errors, findings, and the types of document fields that say what they expect.

EngineError            something about an engine, its checkpoint or its GPU is wrong
├── PlanRefused        no engine can be built as requested
└── DocumentError      a JSON document of an engine cannot be read; lists findings
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

Severity = Literal["error", "warning", "unchecked"]

NOTHING = "nothing"
"""The value of `Finding.found` where something is missing."""
_MAX_SHOWN = 120


class EngineError(Exception):
    """Expected: the caller has to change something. The message is one line.

    Args:
        message: the line.
        details: where several things are wrong, one line for each.

    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


class PlanRefused(EngineError):
    """Expected: no engine can be built as requested.

    Args:
        field: the parameter of `plan` to change, or the checkpoint's own field: `config.json: hidden_size`.
        found: its value.
        reason: why not, and where it helps, what would work. One line.

    """

    def __init__(self, field: str, found: object, reason: str) -> None:
        super().__init__(f"{field} {found}: {reason}")
        self.field = field
        self.found = found
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    field: str
    """What was checked: a file, a key of config.json or of manifest.json, or a property of the machine."""
    found: str
    expected: str
    severity: Severity = "error"
    """`error`: it must not be served; `warning`: it can be; `unchecked`: there is nothing to compare with."""

    def __str__(self) -> str:
        if self.found == NOTHING:
            return f"{self.field}: is missing; it must be {self.expected}"
        return f"{self.field}: found {self.found}, expected {self.expected}"


class DocumentError(EngineError):
    """Expected: a JSON document is missing, damaged or incomplete.

    The message is a single finding, or `headline` with the findings as details.
    """

    headline = "the document is not valid"

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        lines = [str(finding) for finding in self.findings]
        message, details = (lines[0], ()) if len(lines) == 1 else (self.headline, lines)
        super().__init__(message, details)


def suggestion(name: str, known: Iterable[str]) -> str:
    """List the known names, the nearest one first."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return (f"did you mean {near[0]}? " if near else "") + "known: " + ", ".join(names)


def shown(value: object) -> str:
    """Write a value into a finding: short, and in one line."""
    if value is None:
        return NOTHING
    text = " ".join(str(value).split()) if isinstance(value, str) else repr(value)
    return (text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "...") or "an empty text"


class Document(BaseModel):
    """A part of a JSON document: immutable, without conversions, without unknown names."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        # Its own engine for patterns has no look-ahead.
        regex_engine="python-re",
        # Older releases warn of fields whose names begin with `model_`.
        protected_namespaces=(),
    )


def _expects(text: str) -> WrapValidator:
    """Make a field's error name what the field expects."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("unexpected", text) from None

    return WrapValidator(validate)


Text = Annotated[str, _expects("a string")]
FilledText = Annotated[str, Field(min_length=1), _expects("a string of 1 character or more")]
OptionalText = Annotated[str | None, _expects("a string or null")]
Flag = Annotated[bool, _expects("true or false")]
Positive = Annotated[int, Field(ge=1), _expects("a whole number above 0")]
Count = Annotated[int, Field(ge=0), _expects("a whole number of 0 or more")]
Seconds = Annotated[float, Field(ge=0), _expects("a number of 0 or more")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$"), _expects("64 lower-case hexadecimal digits")]
Moment = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"),
    _expects("a moment in UTC, as 2026-01-31T12:00:00Z"),
]
RelativePath = Annotated[
    str, Field(pattern=r"^(?!/)(?!.*(^|/)\.\.(/|$)).+$"), _expects("a path below the directory")
]


def findings_of(error: ValidationError, prefix: str) -> Iterator[Finding]:
    """Turn what pydantic reports into findings, one for each place.

    Args:
        error: of a `Document`.
        prefix: of the fields: `manifest.json: `.

    """
    for detail in error.errors():
        *parents, name = detail["loc"] or ("",)
        if name == "[key]":
            key = parents.pop()
            yield Finding(prefix + _path(parents), shown(key), f"names like: {detail['msg']}")
        elif detail["type"] == "missing":
            expected = f"there, as {_path(parents) or 'the document'} requires"
            yield Finding(prefix + _path(detail["loc"]), NOTHING, expected)
        else:
            yield Finding(prefix + _path(detail["loc"]), shown(detail["input"]), _expectation(detail))


def _path(places: Iterable[int | str]) -> str:
    """Dotted, with places of arrays in brackets: `golden[0].ids`."""
    path = ""
    for place in places:
        path += f"[{place}]" if isinstance(place, int) else f".{place}" if path else place
    return path


def _expectation(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return "no such name"
    if kind == "literal_error":
        return "one of " + str(detail["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "a JSON object"
    return "a JSON array" if kind in ("tuple_type", "list_type") else str(detail["msg"])
