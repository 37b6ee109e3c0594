"""openai-python's own tests, from its source release, against both servers with the simulated engine.

Needs pip's index. Theirs ask for every endpoint of OpenAI's; those of ours are selected, and all of these
have to pass. Left out: stored completions and deletions, which no server of ours has, and requests that set
every parameter at once, which are refused for those that cannot be honoured (`audio`, `suffix`, …).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path

from benchmarks.servers import pair

_FILES = ("chat/test_completions.py", "test_completions.py", "test_models.py")
_SELECTED = (
    "not with_all_params and (create or path_params or ((TestModels or TestAsyncModels) and not delete))"
)
_NEEDS = ("pytest", "pytest-asyncio", "inline-snapshot", "rich", "trio", "aiohttp", "httpx-aiohttp", "httpx2")
_MODELS = ("gpt-6-astra", "gpt-5.4", "gpt-4o", "gpt-3.5-turbo-instruct")
"""The packages that the tests of several releases need."""
_MINUTES = 10


def main() -> int:
    """Run them; the status is that of pytest."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source = _fetch(work)
        python = _prepare(work / "venv", source)
        aliases = ",".join(f"{model}=smollm2-135m-instruct" for model in _MODELS)
        settings = {"backend": "simulated", "model": "smollm2-135m-instruct", "requests_per_minute": "0"}
        with pair(alias=aliases, **settings) as servers:
            return _run(python, source, f"http://{servers.bridge.address}/v1")


def _fetch(work: Path) -> Path:
    """The source of the release that our own tests use."""
    release = f"openai=={version('openai')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "openai"]
    subprocess.run([*pip, "--dest", str(work), release], check=True, timeout=300)
    (archive,) = work.glob("openai-*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(work, filter="data")
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def _prepare(directory: Path, source: Path) -> Path:
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", str(source), *_NEEDS]
    subprocess.run(install, check=True, timeout=60 * _MINUTES)
    return python


def _run(python: Path, source: Path, url: str) -> int:
    files = [f"tests/api_resources/{name}" for name in _FILES]
    pytest = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-k", _SELECTED]
    environment = {**os.environ, "TEST_API_BASE_URL": url}
    command = [*pytest, *files]
    return subprocess.run(command, cwd=source, env=environment, timeout=60 * _MINUTES, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
