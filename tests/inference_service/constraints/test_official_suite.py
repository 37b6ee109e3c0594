"""The official JSON-Schema-Test-Suite, which comes with the source distribution of `jsonschema`."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from inference_service.config import cache_home
from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.errors import ConstraintError

# Fetches a source distribution once, then compiles more than a thousand schemas.
pytestmark = pytest.mark.slow

DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
MAX_REFUSED_TEXTS = 0.04
"""The largest share of valid texts that our grammars refuse: members in another order, integers as `1.0`, and
formats that are annotations to the suite."""
MIN_COMPILED = 0.6


@pytest.fixture(scope="session")
def suite() -> Path:
    """The directory of the suite, which is downloaded once into the cache."""
    name = f"jsonschema-{version('jsonschema')}"
    directory = cache_home() / "json-schema-test-suite" / name
    if not (directory / "json" / "tests").exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        requirements = [name.replace("-", "==", 1), "--dest", str(directory.parent)]
        done = subprocess.run([*command, *requirements], check=False, capture_output=True, timeout=100)
        if done.returncode:
            pytest.skip("the source distribution of jsonschema cannot be fetched here")
        with tarfile.open(directory.parent / f"{name}.tar.gz") as archive:
            archive.extractall(directory.parent, filter="data")
    return directory / "json" / "tests"


def _cases(directory: Path, draft: str) -> Iterator[dict[str, Any]]:
    for path in sorted(directory.glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            schema = case["schema"]
            if isinstance(schema, dict):
                schema = {"$schema": DRAFTS[draft], **schema}
            yield {**case, "schema": schema, "file": path.name}


@pytest.mark.parametrize("draft", DRAFTS)
def test_every_schema_that_is_accepted_agrees_with_the_suite(suite: Path, draft: str) -> None:
    found: Counter[str] = Counter()
    for case in _cases(suite / draft, draft):
        try:
            grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(case["schema"]))
        except ConstraintError:
            found["refused"] += 1
            continue
        found["compiled"] += 1
        for test in case["tests"]:
            text = json.dumps(test["data"], ensure_ascii=False, separators=(",", ":"))
            described = grammar.matches(text)
            assert test["valid"] or not described, (case["file"], case["description"], test["description"])
            found["texts"] += 1
            found["refused texts"] += test["valid"] and not described

    assert found["refused texts"] <= MAX_REFUSED_TEXTS * found["texts"], found
    assert found["compiled"] >= MIN_COMPILED * (found["compiled"] + found["refused"]), found
