"""The lock files of the images are complete, have the tested versions, and no packages of other images."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
ENGINES = {"gguf", "huggingface-hub", "numpy", "tensorrt-llm", "tokenizers", "xllamacpp"}


def pins(name: str) -> set[tuple[str, str]]:
    """The (name, version) pairs of a lock file."""
    text = (REQUIREMENTS / f"{name}.lock").read_text()
    return {(str(canonicalize_name(n)), v) for n, v in re.findall(r"^([\w.-]+)==([^\s;]+)", text, flags=re.M)}


def names(lock: str) -> set[str]:
    return {name for name, _ in pins(lock)}


def closure(root: str) -> set[str]:
    """The names of all requirements of `root` in the development environment."""
    waiting, seen = [Requirement(root)], set[tuple[str, frozenset[str]]]()
    while waiting:
        requirement = waiting.pop()
        key = (str(canonicalize_name(requirement.name)), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            waiting += needs(*key)
    return {name for name, _ in seen} - {"lodestream"}


def needs(name: str, extras: frozenset[str]) -> list[Requirement]:
    """The direct requirements of a distribution with these extras; empty if it is not installed."""
    try:
        texts = own_needs(extras) if name == "lodestream" else distribution(name).requires or []
    except PackageNotFoundError:
        return []
    found = [Requirement(text) for text in texts]
    return [r for r in found if not r.marker or any(r.marker.evaluate({"extra": e}) for e in ("", *extras))]


def own_needs(extras: frozenset[str]) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(text for extra in extras for text in optional[extra])]


@pytest.mark.parametrize("lock", ["serve", "bridge", "embedded", "service", "build"])
def test_images_have_the_tested_versions(lock: str) -> None:
    assert pins(lock)
    assert pins(lock) <= pins("dev")


@pytest.mark.parametrize(
    ("lock", "root"),
    [
        ("serve", "lodestream[all]"),
        ("bridge", "lodestream[bridge,traces]"),
        ("embedded", "lodestream[embedded,redis,postgres,traces]"),
        ("service", "lodestream[service,redis,postgres,traces]"),
        ("build", "hatchling"),
    ],
)
def test_a_lock_file_has_all_requirements_of_its_extra(lock: str, root: str) -> None:
    assert closure(root) - names(lock) == set()


def test_no_image_has_packages_of_the_others() -> None:
    assert names("bridge") & {*ENGINES, "psycopg", "redis"} == set()
    assert names("embedded") & {"fastapi", "uvicorn"} == set()
    assert names("service") & {"fastapi", "uvicorn", "xllamacpp"} == set()
