"""The install commands in error messages work."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lodestream_common.errors import install_command

# pip builds the package, and makes an environment for it.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_advice_works_in_a_checkout() -> None:
    """pip finds everything that it takes, without asking an index for a package named lodestream."""
    command = shlex.split(install_command("embedded"))
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert f"{ROOT}[embedded]" in command

    dry = [*command, "--dry-run", "--no-index", "--no-build-isolation", "--quiet"]
    done = subprocess.run(dry, capture_output=True, text=True, timeout=120, check=False, cwd="/")

    assert done.returncode == 0, done.stderr


def test_the_advice_works_for_a_wheel(tmp_path: Path) -> None:
    """It names the file; where that is gone, pip completes what is installed, and asks no index for it."""
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(*command: str) -> str:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=True, cwd=tmp_path
        ).stdout

    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    run(sys.executable, *build, str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "--system-site-packages", str(tmp_path / "env"))
    python = str(tmp_path / "env" / "bin" / "python")
    # The packages of the tests' environment stand for an index.
    site = next(path for path in sys.path if path.endswith("site-packages"))
    (next((tmp_path / "env" / "lib").glob("python*")) / "site-packages" / "more.pth").write_text(site + "\n")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", str(wheel))
    script = "from lodestream_common.errors import install_command; print(install_command('embedded'))"
    assert shlex.split(run(python, "-c", script))[-1] == f"{wheel}[embedded]"
    wheel.unlink()
    command = shlex.split(run(python, "-c", script))

    assert command[-1] == "lodestream[embedded]"
    run(*command, "--dry-run", "--no-build-isolation")
