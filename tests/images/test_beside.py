"""The packages that are added to an image: exactly those that it lacks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "images" / "beside.py"

LOCK = """\
alpha==1.2 ; python_full_version < '3.11' \\
    --hash=sha256:aa
alpha==1.3 ; python_full_version >= '3.11' \\
    --hash=sha256:ab \\
    --hash=sha256:ac
Beta_Gamma==2.0 \\
    --hash=sha256:bb
"""

Install = Callable[..., None]


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("beside", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "beside", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Simulates installed distributions by name, version and requirements."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, version: str, *requires: str) -> None:
        directory = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        directory.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {text}" for text in requires]
        (directory / "METADATA").write_text("\n".join(lines) + "\n")

    return make


def unmet(beside: Any, root: str, among: set[str] | None = None) -> list[str]:
    return [found.text for found in beside.unmet_requirements(root, among)]


def test_a_lock_file_is_split_by_name_with_all_markers_and_hashes(beside: Any) -> None:
    locked = beside.read_lock(LOCK)
    assert list(locked) == ["alpha", "beta-gamma"]
    assert locked["alpha"].count("--hash") == 3
    assert locked["beta-gamma"] == "Beta_Gamma==2.0 \\\n    --hash=sha256:bb\n"


def test_missing_and_too_old_packages_are_lacking_and_no_others(beside: Any, install: Install) -> None:
    install("probe-server", "1", "probe-new>=2", "probe-old>=2", "probe-gone", "probe-odd ; extra == 'odd'")
    install("probe-new", "3")
    install("probe-old", "1")
    assert sorted(unmet(beside, "probe-server")) == [
        "probe-server needs probe-gone, which is missing",
        "probe-server needs probe-old>=2, which is 1 here",
    ]


def test_extras_and_indirect_requirements_count(beside: Any, install: Install) -> None:
    install("probe-server", "1", "probe-middle ; extra == 'odd'")
    install("probe-middle", "1", "probe-deep<2")
    install("probe-deep", "2")
    assert unmet(beside, "probe-server") == []
    assert unmet(beside, "probe-server[odd]") == ["probe-middle needs probe-deep<2, which is 2 here"]


def test_unmet_requirements_of_the_image_itself_do_not_count(beside: Any, install: Install) -> None:
    install("probe-engine", "1", "probe-own>=9", "probe-hub<1", "probe malformed ==")
    install("probe-own", "1")
    install("probe-hub", "2")
    assert unmet(beside, "probe-engine", {"probe-hub"}) == ["probe-engine needs probe-hub<1, which is 2 here"]


def test_local_versions_of_the_image_s_vendor_are_in_range(beside: Any, install: Install) -> None:
    install("probe-server", "1", "probe-torch>=2.9,<=2.10.0a0")
    install("probe-torch", "2.10.0a0+nv25.12")
    assert unmet(beside, "probe-server") == []
