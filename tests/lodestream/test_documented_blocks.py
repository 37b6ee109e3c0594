"""Every code block of the README and of docs/ runs as it is printed.

Only what a reader's machine has and this one may not is set from outside: ports that are free (by variables
for servers, in the text for callers), the model that the tests have anyway, the programs of TensorRT-LLM,
whose double is on the path, and Go's libraries, which come from Debian. Installers only say what they would
do.

The blocks of a page run in their order, in one directory that looks like a clone. A block whose first line is
a comment with a file name is written to that file, and a later block runs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_service.config import cache_home
from inference_service.models.loader import ModelFile, model_id
from lodestream.cli import COMMANDS, main
from lodestream_common.ready import READY_FILE
from tests.engines.engine_dirs import write_model
from tests.support.certificates import Certificates
from tests.support.documents import ROOT, Block, blocks_of, pages
from tests.support.go_modules import DEBIAN, write_proxy
from tests.support.parts import free_port, part
from tests.support.tensorrt import DOUBLE

README = blocks_of("README.md")
DOCS = [page for page in pages() if page != "README.md"]
BLOCKS = [block for page in pages() for block in blocks_of(page)]
MODELS = set(
    re.findall(r"\bmodel[\"']?[:=] *[\"']([^\"']+)[\"']", "".join(block.text for block in BLOCKS), re.I)
)
INSTALLS = [line for block in BLOCKS for line in block.text.splitlines() if line.startswith("pip install ")]
NODE_MODULES = ROOT / "tests" / "node" / "node_modules"
TIMEOUT_SECONDS = 240.0

NOT_RUN: set[tuple[str, str]] = set()
"""The blocks that no test runs, by page and reason: those that need a GPU or a cluster."""


def test_no_other_block_is_left_out() -> None:
    assert {(block.page, block.not_run) for block in BLOCKS if block.not_run} == NOT_RUN


def test_no_code_stands_outside_a_fence() -> None:
    """An indented line after an empty one is a block, too."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        outside = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"^\n    \S", outside, re.MULTILINE), page


def test_every_file_is_used() -> None:
    """A block that is a file does nothing until another one runs or reads it."""
    for block in BLOCKS:
        if block.file and block.language != "go":
            others = [other.text for other in blocks_of(block.page) if other != block]
            assert any(Path(block.file).name in text for text in others), f"{block.page}:{block.line}"


def test_every_link_leads_to_a_file() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_every_flag_and_path_in_the_text_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with contextlib.suppress(SystemExit):
            main([*command.name.split(), "--help"])
    flags = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    tree = "|".join(entry.name for entry in ROOT.iterdir() if entry.is_dir() and entry.name[0] != ".")
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        inline = re.findall(r"`([^`\n]+)`", text)
        # The gateway has flags of its own.
        ours = [code for code in inline if not code.startswith("smg launch")]
        named = {flag for code in ours for flag in re.findall(r"(?<!\S)--[a-z][a-z-]+", code)}
        assert named <= flags, f"{page.name}: {named - flags}"
        paths = [code for code in inline if re.fullmatch(rf"(?:{tree})/[\w./-]*", code)]
        assert all((ROOT / path).exists() for path in paths), f"{page.name}: {paths}"


def kind_of(block: Block) -> str:
    """Which of the tests of the README runs a block."""
    if block.language != "bash":
        return block.language
    for kind in ("make serve ARGS", "make serve", "pip install", "curl", "lodestream engine"):
        if kind in block.text:
            return kind
    return "unknown"


def blocks(kind: str) -> list[str]:
    return [block.text for block in README if kind_of(block) == kind]


def test_every_block_of_the_readme_is_run() -> None:
    """By one of the tests below; each is there for something."""
    known = {"make serve ARGS", "make serve", "pip install", "curl", "lodestream engine", "python", "toml"}

    assert {kind_of(block) for block in README} == known


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the front of PATH: make for the tests' own environment."""
    directory = tmp_path_factory.mktemp("bin")
    make = f"{shutil.which('make')} -C {ROOT} -o {sys.prefix}/.serve VENV={sys.prefix}"
    (directory / "make").write_text(f'#!/bin/sh\nexec {make} "$@"\n')
    (directory / "make").chmod(0o755)
    return directory


def _variables(programs: Path, model_file: ModelFile, home: Path) -> dict[str, str]:
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {
        **os.environ,
        "PATH": path,
        "XDG_STATE_HOME": str(home / "state"),
        "LODESTREAM_KEYS_FILE": str(home / "keys.json"),
        "LODESTREAM_MODEL": str(model_file.path),
        "LODESTREAM_ALIAS": ",".join(f"{name}={model_id(model_file.path)}" for name in sorted(MODELS)),
        "LODESTREAM_GRPC_ADDRESS": "127.0.0.1:0",
        "LODESTREAM_HTTP_ADDRESS": "127.0.0.1:0",
        "LODESTREAM_REQUESTS_PER_MINUTE": "0",
        # Installers check what they are asked for, and change nothing.
        "PIP_DRY_RUN": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "npm_config_dry_run": "true",
        "npm_config_prefer_offline": "true",
    }


@pytest.fixture
def environment(programs: Path, model_file: ModelFile, tmp_path: Path) -> dict[str, str]:
    return _variables(programs, model_file, tmp_path)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the servers are, as `host:port`."""

    http: str
    grpc: str
    metrics: str = ""
    state: str = ""
    """Of the service: the directory of its receipts."""

    def put_into(self, text: str) -> str:
        """A block with these addresses in the place of the usual ones."""
        others = {"127.0.0.1:8000": self.http, "127.0.0.1:50051": self.grpc, "127.0.0.1:9464": self.metrics}
        for usual in re.findall(r"0\.0\.0\.0:\d+", text):
            others[usual] = "127.0.0.1:0"
        for usual, other in others.items():
            text = text.replace(usual, other or usual)
        return text


@pytest.fixture(scope="module")
def places(
    programs: Path, model_file: ModelFile, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Places]:
    """Both servers on the embedded engine, for every block that calls some."""
    home = tmp_path_factory.mktemp("servers")
    metrics = f"127.0.0.1:{free_port()}"
    environment = _variables(programs, model_file, home) | {"LODESTREAM_METRICS_ADDRESS": metrics}
    with serving("lodestream up", home / "out", environment) as found:
        # From the first request on, the metrics have every name.
        body = {"model": "llama-3.1-8b", "prompt": "Hello", "max_tokens": 2}
        httpx.post(f"http://{found.http}/v1/completions", json=body, timeout=60).raise_for_status()
        yield Places(found.http, found.grpc, metrics, environment["XDG_STATE_HOME"])


@contextlib.contextmanager
def serving(line: str, out: Path, environment: Mapping[str, str]) -> Iterator[Places]:
    """Run a line that starts both servers; the addresses that its banner names."""
    with out.open("wb") as banner:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], stdout=banner, env=environment, start_new_session=True
        )
    try:
        _await(lambda: "Try it" in out.read_text() or process.poll() is not None)
        found = re.search(r"REST +http://(\S+)\n +gRPC +(\S+)", out.read_text())
        assert found, out.read_text()
        yield Places(found[1], found[2])
    finally:
        _interrupt(process)


def _interrupt(process: subprocess.Popen[Any]) -> int:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    return process.wait(TIMEOUT_SECONDS)


def _await(question: Callable[[], object]) -> None:
    end = time.monotonic() + TIMEOUT_SECONDS
    while not question():
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


def test_both_make_targets_are_there(environment: dict[str, str], tmp_path: Path) -> None:
    """`make test` runs this very test, so make only says what it would do."""
    for text in blocks("make serve"):
        for line in text.splitlines():
            run(["bash", "-c", line.replace("make ", "make --dry-run ")], environment, tmp_path)


def test_the_examples_run(places: Places, environment: dict[str, str], tmp_path: Path) -> None:
    """Each Python block as a file of its own."""
    part("curl")
    for text in blocks("curl"):
        done = run(["bash", "-ec", places.put_into(text)], environment, tmp_path)
        assert '"choices"' in done.stdout
    for text in blocks("python"):
        (tmp_path / "block.py").write_text(places.put_into(text))
        assert run([sys.executable, "block.py"], environment, tmp_path).stdout.strip()


def test_the_simulated_server_runs(environment: dict[str, str], tmp_path: Path) -> None:
    """The first line goes on; the others are for another shell, and meet the fault that they ask for."""
    part("curl")
    for text in blocks("make serve ARGS"):
        first, rest = text.split("\n", 1)
        with serving(first, tmp_path / "out", environment) as found:
            done = run(["bash", "-ec", found.put_into(rest)], environment, tmp_path)
        assert '"internal_error"' in done.stdout


def test_the_rules_are_rules(environment: dict[str, str], tmp_path: Path) -> None:
    for text in blocks("toml"):
        (tmp_path / "rules.toml").write_text(text)
        run(["lodestream", "filter", "check", "rules.toml"], environment, tmp_path)


@pytest.mark.parametrize("line", sorted({line.split(" #")[0].strip() for line in INSTALLS}))
def test_the_install_commands_work(line: str, environment: dict[str, str]) -> None:
    """This checkout, and packages that the tests have from the lock; pip tries it without doing it."""
    run(["bash", "-ec", line], environment, ROOT)


def test_an_engine_is_planned_built_verified_and_served(environment: dict[str, str], tmp_path: Path) -> None:
    """Line by line, on the double of TensorRT-LLM. The last line serves until a signal ends it."""
    write_model(tmp_path / "Llama-3.1-8B-Instruct")
    (tmp_path / "examples").symlink_to(DOUBLE / "examples")
    for name in ("LODESTREAM_MODEL", "LODESTREAM_ALIAS"):
        del environment[name]
    environment["PATH"] = f"{DOUBLE / 'bin'}{os.pathsep}{environment['PATH']}"
    environment |= {"PYTHONPATH": str(DOUBLE), READY_FILE: str(tmp_path / "ready")}
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


class Page:
    """Runs the blocks of a page in a directory that looks like a clone."""

    def __init__(self, home: Path, environment: Mapping[str, str], places: Places) -> None:
        self._home, self._places = home, places
        # Commands that read the receipts of the servers find them where those keep them.
        self._environment = {**environment, "XDG_STATE_HOME": places.state}
        for entry in ROOT.iterdir():
            if not entry.name.startswith("."):
                (home / entry.name).symlink_to(entry)
        certificates = Certificates(home)
        assert certificates.ca.is_file()
        for name in ("service", "bridge"):
            certificates.issue(name)
        if NODE_MODULES.is_dir():
            (home / "node_modules").symlink_to(NODE_MODULES)

    def run(self, block: Block) -> None:
        """Write the file that a block is, or run or check it.

        Raises:
            KeyError: nothing runs a block of this language.

        """
        text = self._places.put_into(block.text)
        if block.file:
            (self._home / block.file).write_text(text)
            return
        runners: dict[str, Callable[[str], object]] = {
            "bash": self._run_shell,
            "python": self._run_python,
            "promql": self._query,
            "json": json.loads,
            "jsonl": lambda text: [json.loads(line) for line in text.splitlines()],
            "toml": tomllib.loads,
            "text": str,
        }
        runners[block.language](text)

    def _run_shell(self, text: str) -> None:
        # Another test runs what installs Python packages, once for all pages.
        text = re.sub(r"^pip install .*\n", "", text, flags=re.MULTILINE)
        if re.search(r"^(make serve|lodestream (up|serve|bridge))\b", text, re.MULTILINE):
            self._serve(text)
        else:
            run(["bash", "-euo", "pipefail", "-c", text], self._environment, self._home)

    def _serve(self, text: str) -> None:
        """Run a block whose last line starts servers, until they are ready."""
        out, ready = self._home / "banner", self._home / "ready"
        environment = {**self._environment, "LODESTREAM_BACKEND": "simulated", READY_FILE: str(ready)}
        environment["XDG_STATE_HOME"] = str(self._home / "state")
        with out.open("wb") as banner:
            process = subprocess.Popen(
                ["bash", "-ec", text], stdout=banner, env=environment, cwd=self._home, start_new_session=True
            )
        try:
            _await(lambda: ready.exists() or "Try it" in out.read_text() or process.poll() is not None)
            assert process.poll() is None, out.read_text()
        finally:
            _interrupt(process)

    def _run_python(self, text: str) -> None:
        (self._home / "block.py").write_text(text)
        assert run([sys.executable, "block.py"], self._environment, self._home).stdout.strip()

    def _query(self, text: str) -> None:
        """Let Prometheus check the expression, and look for its metrics at the servers."""
        rules = {"groups": [{"name": "block", "rules": [{"record": "block", "expr": text}]}]}
        (self._home / "rules.yml").write_text(json.dumps(rules))
        run([part("promtool"), "check", "rules", "rules.yml"], self._environment, self._home)
        metrics = "".join(
            httpx.get(f"http://{address}/metrics").text
            for address in (self._places.metrics, self._places.http)
        )
        for name in re.findall(r"lodestream_\w+", text):
            assert f"\n{name}" in metrics, name


@pytest.mark.parametrize("page", DOCS)
def test_the_blocks_of_a_page_run(
    page: str, places: Places, environment: dict[str, str], tmp_path: Path
) -> None:
    environment |= _needs(page, tmp_path)
    home = tmp_path / "clone"
    home.mkdir()
    runner = Page(home, environment, places)
    for block in blocks_of(page):
        if not block.not_run:
            try:
                runner.run(block)
            except AssertionError as error:
                raise AssertionError(f"{page}:{block.line}: {error}") from error


def _needs(page: str, tmp_path: Path) -> dict[str, str]:
    """Look for the programs of other languages that a page calls; the variables that they need here."""
    shell = "".join(block.text for block in blocks_of(page) if block.language == "bash")
    for program in ("curl", "grpcurl"):
        if re.search(rf"\b{program} -", shell):
            part(program)
    if re.search(r"\bnode \w+\.mjs", shell) and not (NODE_MODULES / "@grpc").is_dir():
        pytest.skip("the npm packages are not installed; run: make node")
    if "go run" not in shell:
        return {}
    for program in ("protoc", "protoc-gen-go", "protoc-gen-go-grpc"):
        part(program)
    go = part("go")
    if not DEBIAN.is_dir():
        pytest.skip("Go's libraries are not installed; run: make parts")
    proxy = write_proxy(tmp_path / "proxy", go)
    return {
        "GOPROXY": proxy,
        "GOSUMDB": "off",
        "GOPATH": str(tmp_path / "go"),
        # Go finds its builds again where the sources are in the same place; the first one takes a minute.
        "GOMODCACHE": str(cache_home() / "go"),
        "GOFLAGS": "-modcacherw",
    }
