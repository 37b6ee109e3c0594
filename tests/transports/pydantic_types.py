"""Types into which programs parse answers, each as a model for `response_format`."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar, Union
from uuid import UUID

from pydantic import (
    AliasChoices,
    AnyUrl,
    Base64Str,
    BaseModel,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    HttpUrl,
    Json,
    NegativeFloat,
    NegativeInt,
    NonNegativeInt,
    NonPositiveInt,
    PositiveFloat,
    PositiveInt,
    RootModel,
    SecretStr,
    Strict,
    StringConstraints,
    Tag,
    create_model,
)
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

Item = TypeVar("Item")


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(Enum):
    WORD = "word"
    NUMBER = 7
    NOTHING = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Tree(BaseModel):
    name: Annotated[str, Field(max_length=8)]
    children: Annotated[list[Tree], Field(max_length=2)]


class Chain(BaseModel):
    value: int
    next: Chain | None = None


class Box(BaseModel, Generic[Item]):
    content: Item


class Aliased(BaseModel):
    city: str = Field(alias="cityName")
    area: int = Field(validation_alias=AliasChoices("area", "surface"))


class Documented(BaseModel):
    """A place with a description."""

    name: str = Field(title="Name", description="What it is called.", examples=["Bonn"])
    size: int = Field(default=3, deprecated=True)


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Base(BaseModel):
    identity: UUID


class Derived(Base):
    label: str


class Movie(TypedDict):
    title: str
    year: int


class Point(NamedTuple):
    x: int
    y: int


class Names(RootModel[list[str]]):
    pass


@dataclass
class Address:
    street: str
    number: int


class Nested(BaseModel):
    place: Address
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


def _kind_of(value: Any) -> str:
    return str(value.get("kind") if isinstance(value, dict) else value.kind)


_Tagged = Annotated[
    Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")],
    Discriminator(_kind_of),
]

_VALUES: Mapping[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "None": None,
    "Any": Any,
    "strict int": Annotated[int, Strict()],
    "bounded int": Annotated[int, Field(ge=-3, lt=120)],
    "PositiveInt": PositiveInt,
    "NegativeInt": NegativeInt,
    "NonNegativeInt": NonNegativeInt,
    "NonPositiveInt": NonPositiveInt,
    "multiple of 5": Annotated[int, Field(multiple_of=5)],
    "bounded multiple of 7": Annotated[int, Field(multiple_of=7, ge=10, le=100)],
    "bounded float": Annotated[float, Field(gt=0, le=1)],
    "multiple of 0.25": Annotated[float, Field(multiple_of=0.25)],
    "PositiveFloat": PositiveFloat,
    "NegativeFloat": NegativeFloat,
    "FiniteFloat": FiniteFloat,
    "Decimal": Decimal,
    "Decimal of money": Annotated[Decimal, Field(max_digits=8, decimal_places=2)],
    "bounded Decimal": Annotated[Decimal, Field(ge=0, le=10)],
    "ByteSize": ByteSize,
    "short str": Annotated[str, Field(min_length=2, max_length=5)],
    "str of a pattern": Annotated[str, Field(pattern=r"^[A-Z]{2}-\d{3,5}$")],
    "str of a pattern inside": Annotated[str, Field(pattern=r"\d{2}", max_length=9)],
    "stripped str": Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)],
    "lower str": Annotated[str, StringConstraints(to_lower=True, pattern="^[A-Z]+$", max_length=4)],
    "bytes": bytes,
    "Base64Str": Base64Str,
    "SecretStr": SecretStr,
    "Path": Path,
    "Json": Json[list[int]],
    "date": dt.date,
    "datetime": dt.datetime,
    "time": dt.time,
    "timedelta": dt.timedelta,
    "UUID": UUID,
    "IPv4Address": ipaddress.IPv4Address,
    "IPv6Address": ipaddress.IPv6Address,
    "IPv4Network": ipaddress.IPv4Network,
    "HttpUrl": HttpUrl,
    "AnyUrl": AnyUrl,
    "Enum of str": Colour,
    "IntEnum": Level,
    "mixed Enum": Mixed,
    "Literal": Literal["a", "b", 3, True],
    "Union": Union[int, str, list[bool]],  # noqa: UP007
    "Optional": Optional[int],  # noqa: UP045
    "union of models": Cat | Dog,
    "discriminated union": Annotated[Cat | Dog, Field(discriminator="kind")],
    "union by a function": _Tagged,
    "list": list[int],
    "bounded list": Annotated[list[str], Field(min_length=1, max_length=3)],
    "list of lists": Annotated[list[Annotated[list[int], Field(max_length=2)]], Field(max_length=2)],
    "set of int": set[int],
    "set of an Enum": set[Colour],
    "frozenset of bool": frozenset[bool],
    "tuple": tuple[int, str, bool],
    "tuple of any length": tuple[int, ...],
    "NamedTuple": Point,
    "dict": dict[str, int],
    "dict of an Enum": dict[Colour, int],
    "dict of a pattern": dict[Annotated[str, Field(pattern="^[a-z]+$")], bool],
    "bounded dict": Annotated[dict[str, int], Field(min_length=1, max_length=2)],
    "TypedDict": Movie,
    "generic model": Box[list[int]],
    "RootModel inside": Names,
}

MODELS: Mapping[str, type[Any]] = {
    **{name: create_model("Answer", value=(value, ...)) for name, value in _VALUES.items()},
    "default": create_model("Answer", value=(int, 4), other=(str, "x")),
    "recursive model": Tree,
    "recursive by Optional": Chain,
    "aliases": Aliased,
    "documented": Documented,
    "no other members": Closed,
    "other members": Open,
    "derived model": Derived,
    "dataclass": Address,
    "nested": Nested,
}

REFUSED: Mapping[str, str] = {
    "set of int": "`uniqueItems` holds only where the elements can be at most 6 different values.",
}
"""The refused types, with the reason."""

_DECIMAL = "The schema allows any string, without digits or bounds."
NOT_ALWAYS_VALID: Mapping[str, str] = {
    "Decimal": _DECIMAL,
    "Decimal of money": _DECIMAL,
    "bounded Decimal": _DECIMAL,
    "ByteSize": "The pattern of the schema allows any word for the unit.",
    "stripped str": "White space counts for `minLength`, and is stripped before the length is checked.",
    "IPv4Network": "The format `ipv4network` is an annotation.",
    "Json": "The format `json-string` is an annotation.",
    "HttpUrl": "The format `uri` takes any scheme.",
}
"""Types whose schema allows more than pydantic accepts, with the reason."""
