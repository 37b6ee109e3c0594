"""The table of parameters is what the protocol's comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lodestream.inference.v1 import generate_service_pb2 as pb

from lodestream_common.parameters import PARAMETERS, Parameter

PROTOCOL = Path(__file__).parents[2] / "proto" / "lodestream" / "inference" / "v1"
NUMBERS = [p for p in PARAMETERS.values() if p.field.startswith(("sampling.", "output."))]


def comment_of(parameter: Parameter) -> str:
    """The comment above the field in the protocol."""
    message = pb.GenerateRequest.DESCRIPTOR
    *groups, name = parameter.field.split(".")
    for group in groups:
        inner = message.fields_by_name[group].message_type
        assert inner is not None
        message = inner
    text = (PROTOCOL / Path(message.file.name).name).read_text()
    body = text[text.index(f"message {message.name} {{") :]
    found = re.search(rf"((?:^ *//.*\n)+)^ *[a-z][^\n/]* {name} = ", body, re.MULTILINE)
    assert found, f"{name} has no comment"
    return " ".join(line.strip().removeprefix("//").strip() for line in found[1].splitlines())


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=lambda parameter: parameter.name)
def test_the_field_exists(parameter: Parameter) -> None:
    assert comment_of(parameter)


@pytest.mark.parametrize("parameter", NUMBERS, ids=lambda parameter: parameter.name)
def test_the_comment_has_the_range_and_the_default(parameter: Parameter) -> None:
    comment = comment_of(parameter)
    ranges = [
        (bracket == "(", float(low), float(high))
        for bracket, low, high in re.findall(r"ange ([\[(])(-?[\d.]+), (-?[\d.]+)]", comment)
    ]
    if ranges:
        assert ranges == [(parameter.excludes_low, parameter.low, parameter.high)]
    default = re.search(r"Unset means (-?[\d.]*\d)", comment)
    if default:
        assert float(default[1]) == parameter.default


def test_most_comments_have_ranges() -> None:
    assert sum("ange [" in c or "ange (" in c for c in map(comment_of, NUMBERS)) >= 7


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("temperature", 0.0, True),
        ("temperature", 2.0, True),
        ("temperature", 2.0001, False),
        ("temperature", float("nan"), False),
        ("repetition_penalty", 0.0, False),
        ("repetition_penalty", 1e-9, True),
        ("top_k", -1, True),
        ("top_k", -2, False),
    ],
)
def test_a_range_includes_its_ends_unless_it_says_otherwise(name: str, value: float, accepted: bool) -> None:
    assert PARAMETERS[name].accepts(value) is accepted
