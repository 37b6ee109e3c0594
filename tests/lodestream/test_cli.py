"""The command as a whole: help, unknown commands, and errors without tracebacks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_service.config import ServiceConfig
from lodestream import settings
from lodestream.cli import COMMANDS, main
from lodestream.sources import settings_of
from lodestream_common.errors import install_command
from rest_bridge.config import BridgeConfig

Lodestream = Callable[..., "subprocess.CompletedProcess[str]"]

LEAVES = {
    "up": settings.ALL,
    "serve": settings_of(ServiceConfig),
    "bridge": settings_of(BridgeConfig),
}


def _help(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main([*command.split(), "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_the_overview_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command or with --help, lodestream lists its commands and exits with 0."""
    assert main(arguments) == 0
    text = capsys.readouterr().out

    assert all(f"  {command.name} " in text for command in COMMANDS)


def test_a_group_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`lodestream keys` lists the commands about keys, and no others."""
    assert main(["keys"]) == 0
    text = capsys.readouterr().out

    assert all(f"  keys {name}" in text for name in ("create", "list", "revoke"))
    assert "  serve" not in text


@pytest.mark.parametrize("command", LEAVES)
def test_help_explains_every_setting(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Flag, description, range and default of each; the other two forms; an example."""
    text = _help(command, capsys)
    letters = "".join(text.split())

    for setting in LEAVES[command].values():
        assert f" {setting.flag}" in text
        assert "".join(setting.help.split()) in letters
    assert "LODESTREAM_" in text
    assert "examples:" in text
    assert max(map(len, text.splitlines())) <= 100


def test_help_shows_range_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    """The facts stand in brackets behind the description, and a mapping explains its three forms."""
    words = " ".join(_help("serve", capsys).split())

    assert "what the others leave free. [from 0 to 100000; default: 256]" in words
    assert "[above 0, at most 3600; default: 30]" in words
    assert '[also as LODESTREAM_ALIAS="NAME=ID,NAME=ID", or as a table [alias] in the file]' in words
    assert "[default: ~/.config/lodestream/keys.json]" in words


@pytest.mark.parametrize("command", [c.name for c in COMMANDS if c.name not in {*LEAVES, "version"}])
def test_every_other_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It says how to call it, and what it does."""
    assert _help(command, capsys).startswith(f"usage: lodestream {command}")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["srve"], "did you mean serve?"),
        (["keys", "creat"], "did you mean keys create?"),
        (["frobnicate"], "frobnicate: unknown command"),
        (["--serve"], "--serve"),
        (["version", "now"], "now"),
        (["keys", "create"], "--name"),
        (["keys", "create", "--name", "a", "--level", "root"], "read-only, read-write, admin"),
        (["health", "--timeout", "soon"], "--timeout"),
        (["health", "--address", "nonsense"], "--address"),
    ],
)
def test_a_wrong_call_is_an_error_of_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, one line on stderr that names what is wrong."""
    assert main(arguments) == 2
    printed = capsys.readouterr()

    assert printed.out == ""
    assert printed.err.startswith("lodestream: ")
    assert printed.err.count("\n") == 1
    assert named in printed.err


def test_help_loads_nothing_heavy() -> None:
    """The overview imports only the standard library."""
    script = (
        "import sys; from lodestream.cli import main; main(['--help']); "
        "print(sorted({'pydantic', 'grpc', 'structlog', 'asyncio'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stderr.strip() == "[]"


_LOADED_BY_HELP = """
import sys
from lodestream.cli import main
heavy = {"grpc", "fastapi", "uvicorn", "xllamacpp", "tokenizers", "numpy", "huggingface_hub"}
for command in ("serve", "bridge", "up"):
    try:
        main([command, "--help"])
    except SystemExit as end:
        print(command, end.code, sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def test_help_of_a_server_loads_no_server() -> None:
    """Settings and their help need neither grpc nor a web framework nor an engine."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED_BY_HELP], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stderr.splitlines() == ["serve 0 []", "bridge 0 []", "up 0 []"]


def test_a_missing_package_is_an_error_of_one_line() -> None:
    """With only the client installed, the server commands say what to install."""
    script = (
        "import sys; sys.modules['structlog'] = None; "
        "from lodestream.cli import main; sys.exit(main(['serve']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 1
    assert done.stderr == f"lodestream: structlog is not installed; run: {install_command('all')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["up", "--help"], ["version"]])
def test_a_closed_output_pipe_is_no_error(arguments: list[str]) -> None:
    """`lodestream --help | head -0` ends without a traceback, however little was written."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "lodestream.cli", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writing)

    assert done.stderr == b""
    assert done.returncode in {0, 128 + signal.SIGPIPE}


def test_version_prints_name_and_version_lines(
    lodestream: Lodestream, lodestream_process: Lodestream
) -> None:
    """The first line is lodestream's own."""
    done = lodestream_process("version")

    assert done.returncode == 0
    assert done.stdout.startswith("lodestream 0.")
    assert all(len(line.split(" ", 1)) == 2 for line in done.stdout.splitlines())
    assert lodestream("--version").stdout == done.stdout


def test_a_filter_file_is_checked(lodestream: Lodestream, tmp_path: Path) -> None:
    """A good file is printed rule by rule; a malformed one is one line, as it would be from the service."""
    rules = tmp_path / "rules.toml"
    rules.write_text("[[rules]]\nname = 'heron'\nphrases = ['heron']\naction = 'block'\nkeys = ['bob']\n")
    done = lodestream("filter", "check", str(rules))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "heron: block in prompts and output, for the keys bob: 1 phrases, 0 patterns",
        f"{rules}: 1 rule, all fine",
    ]

    rules.write_text("[[rules]]\nname = 'heron'\nfrases = ['heron']\naction = 'block'\n")
    broken = lodestream("filter", "check", str(rules))
    assert (broken.returncode, broken.stdout, broken.stderr.count("\n")) == (1, "", 1)
    assert "rules[0] 'heron': frases: unknown member; did you mean phrases?" in broken.stderr
    assert lodestream("filter", "check", str(tmp_path / "nowhere")).returncode == 1


def test_models_are_listed_and_not_found_ones_reported(lodestream: Lodestream, tmp_path: Path) -> None:
    """The catalog is listed with what is here; a model that is not here has no path."""
    listed = lodestream("model", "list", LODESTREAM_CACHE_DIR=str(tmp_path))
    assert listed.stdout.startswith("qwen2.5-coder-0.5b-instruct  491 MB  Apache-2.0  not fetched")
    assert "qwen2.5-coder-1.5b-instruct  1117 MB  Apache-2.0  not fetched" in listed.stdout
    assert "smollm2-135m-instruct  98 MB  Apache-2.0  not fetched" in listed.stdout

    missing = lodestream("model", "path", "--cache-dir", str(tmp_path))
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == (
        "lodestream: qwen2.5-coder-0.5b-instruct is not fetched; see: lodestream model fetch "
        "qwen2.5-coder-0.5b-instruct\n"
    )


def test_a_local_model_is_its_own_path(lodestream: Lodestream, tmp_path: Path) -> None:
    """A file needs no fetching; --model and the operand are the same."""
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")

    for arguments in (["path", str(file)], ["path", "--model", str(file)], ["fetch", str(file)]):
        assert lodestream("model", *arguments).stdout == f"{file}\n"
