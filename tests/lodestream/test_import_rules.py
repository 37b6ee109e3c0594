"""The import rules cover every package that is published, and every module of the service."""

from __future__ import annotations

import tomllib
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rules() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / ".importlinter")
    return parser


def published() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    return {Path(path).name for path in included}


def names(contract: str, option: str) -> set[str]:
    return set(rules()[contract][option].replace("|", " ").split())


def test_every_published_package_has_a_layer() -> None:
    layers = {name.partition(".")[0] for name in names("importlinter:contract:packages", "layers")}

    assert names("importlinter", "root_packages") == published()
    assert layers == published()


def test_every_top_level_package_is_published() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"} <= published()


def test_every_part_of_the_service_has_a_rule_about_grpc() -> None:
    sources = ("importlinter:contract:transport", "importlinter:contract:transport-direct")
    ruled = {source.split(".")[1] for name in sources for source in names(name, "source_modules")}
    parts = {
        path.stem
        for path in (ROOT / "inference_service").iterdir()
        if (path / "__init__.py").exists() or path.suffix == ".py"
    }

    assert parts - ruled == {"__init__", "request", "rpc", "server"}
