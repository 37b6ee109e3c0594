"""Every code block of the README runs as it is printed.

Only what a reader's machine has and this one may not is set from outside: ports that are free (by variables
for servers, in the text for callers), the model that the tests have anyway, and the programs of TensorRT-LLM,
whose double is on the path.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import pytest

from inference_service.models.loader import ModelFile, model_id
from tests.engines.engine_dirs import write_model
from tests.support.readme import README
from tests.support.tensorrt import DOUBLE

_BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
BLOCKS: list[tuple[str, str]] = _BLOCK.findall(README.read_text("utf-8"))
MODELS = set(re.findall(r'"?model"?[:=] ?"([^"]+)"', "".join(text for _, text in BLOCKS)))
TIMEOUT_SECONDS = 100.0


def kind_of(language: str, text: str) -> str:
    """Which of the tests below runs a block."""
    if language != "bash":
        return language
    for kind in ("make serve ARGS", "make serve", "pip install", "curl", "lodestream engine"):
        if kind in text:
            return kind
    return "unknown"


def blocks(kind: str) -> list[str]:
    return [text for language, text in BLOCKS if kind_of(language, text) == kind]


def test_every_block_is_run() -> None:
    """By one of the tests below; each is there for something."""
    known = {"make serve ARGS", "make serve", "pip install", "curl", "lodestream engine", "python", "toml"}

    assert {kind_of(*block) for block in BLOCKS} == known


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the front of PATH: make for the tests' own environment, and a curl if need be."""
    directory = tmp_path_factory.mktemp("bin")
    make = f"{shutil.which('make')} -C {README.parent} -o {sys.prefix}/.serve VENV={sys.prefix}"
    _write(directory / "make", f'#!/bin/sh\nexec {make} "$@"\n')
    if not shutil.which("curl"):
        _write(directory / "curl", f"#!{sys.executable}\n{_CURL}")
    return directory


def _write(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


_CURL = """
import sys, httpx
url, options = sys.argv[1], sys.argv[2:]
given = list(zip(options[::2], options[1::2]))
headers = dict(value.split(": ", 1) for name, value in given if name == "-H")
print(httpx.post(url, headers=headers, content=dict(given)["-d"], timeout=60).text)
"""


@pytest.fixture
def environment(programs: Path, model_file: ModelFile) -> dict[str, str]:
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {
        **os.environ,
        "PATH": path,
        "LODESTREAM_MODEL": str(model_file.path),
        "LODESTREAM_ALIAS": ",".join(f"{name}={model_id(model_file.path)}" for name in MODELS),
        "LODESTREAM_GRPC_ADDRESS": "127.0.0.1:0",
        "LODESTREAM_HTTP_ADDRESS": "127.0.0.1:0",
    }


@contextlib.contextmanager
def serving(line: str, out: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Run a line that starts both servers; the addresses that its banner names for REST and gRPC."""
    with out.open("wb") as banner:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], stdout=banner, env=environment, start_new_session=True
        )
    try:
        _await(lambda: "Try it" in out.read_text() or process.poll() is not None)
        found = re.search(r"REST +http://(\S+)\n +gRPC +(\S+)", out.read_text())
        assert found, out.read_text()
        yield found[1], found[2]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(TIMEOUT_SECONDS)


def _await(question: object) -> None:
    end = time.monotonic() + TIMEOUT_SECONDS
    while not question():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def run(
    command: list[str], environment: Mapping[str, str], directory: Path
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def with_ports(text: str, http: str, grpc: str) -> str:
    return text.replace("127.0.0.1:8000", http).replace("127.0.0.1:50051", grpc)


def test_both_make_targets_are_there(environment: dict[str, str], tmp_path: Path) -> None:
    """`make test` runs this very test, so make only says what it would do."""
    for text in blocks("make serve"):
        for line in text.splitlines():
            run(["bash", "-c", line.replace("make ", "make --dry-run ")], environment, tmp_path)


def test_the_examples_run(environment: dict[str, str], tmp_path: Path) -> None:
    """All against one pair of servers on the embedded engine, each Python block as a file of its own."""
    with serving("lodestream up", tmp_path / "out", environment) as places:
        for text in blocks("curl"):
            done = run(["bash", "-ec", with_ports(text, *places)], environment, tmp_path)
            assert '"choices"' in done.stdout
        for text in blocks("python"):
            (tmp_path / "block.py").write_text(with_ports(text, *places))
            assert run([sys.executable, "block.py"], environment, tmp_path).stdout.strip()


def test_the_simulated_server_runs(environment: dict[str, str], tmp_path: Path) -> None:
    """The first line goes on; the others are for another shell, and meet the fault that they ask for."""
    for text in blocks("make serve ARGS"):
        first, rest = text.split("\n", 1)
        with serving(first, tmp_path / "out", environment) as places:
            done = run(["bash", "-ec", with_ports(rest, *places)], environment, tmp_path)
        assert '"internal_error"' in done.stdout


def test_the_rules_are_rules(environment: dict[str, str], tmp_path: Path) -> None:
    for text in blocks("toml"):
        (tmp_path / "rules.toml").write_text(text)
        run(["lodestream", "filter", "check", "rules.toml"], environment, tmp_path)


def test_what_is_to_be_installed_can_be(environment: dict[str, str]) -> None:
    """This checkout, which pip tries without doing it; and packages that the tests have from the lock."""
    for line in "".join(blocks("pip install")).splitlines():
        name = line.split("#")[0].split()[-1]
        if name == ".":
            dry = "--dry-run --no-deps --no-build-isolation --quiet"
            run([sys.executable, "-m", "pip", "install", *dry.split(), "."], environment, README.parent)
        else:
            assert version(name)


def test_an_engine_is_planned_built_verified_and_served(environment: dict[str, str], tmp_path: Path) -> None:
    """Line by line, on the double of TensorRT-LLM. The last line serves until a signal ends it."""
    write_model(tmp_path / "Llama-3.1-8B-Instruct")
    (tmp_path / "examples").symlink_to(DOUBLE / "examples")
    for name in ("LODESTREAM_MODEL", "LODESTREAM_ALIAS"):
        del environment[name]
    environment["PATH"] = f"{DOUBLE / 'bin'}{os.pathsep}{environment['PATH']}"
    environment |= {"PYTHONPATH": str(DOUBLE), "LODESTREAM_READY_FILE": str(tmp_path / "ready")}
    (block,) = blocks("lodestream engine")
    *lines, last = block.splitlines()
    for line in lines:
        run(["bash", "-ec", line], environment, tmp_path)

    with subprocess.Popen(["bash", "-c", f"exec {last}"], env=environment, cwd=tmp_path) as served:
        try:
            _await(lambda: (tmp_path / "ready").exists() or served.poll() is not None)
            assert "listening" in (tmp_path / "ready").read_text()
        finally:
            served.terminate()
        assert served.wait(TIMEOUT_SECONDS) == 0
