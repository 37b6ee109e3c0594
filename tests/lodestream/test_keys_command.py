"""`lodestream keys`, as processes: the key on stdout, everything else beside it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lodestream_common.keys import Keyring

Lodestream = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_life_of_a_key(lodestream: Lodestream, home: Path) -> None:
    """Created, recognised, listed, revoked, still listed, no longer recognised; in the default file."""
    path = home / ".config" / "lodestream" / "keys.json"

    created = lodestream("keys", "create", "--name", "alice", "--level", "read-only")
    assert created.returncode == 0
    assert re.fullmatch(r"pg_[A-Za-z0-9]{40}\n", created.stdout)
    token = created.stdout.strip()
    assert token not in created.stderr
    assert "alice" in created.stderr

    key = Keyring(path).verify(token)
    assert key is not None
    assert (key.name, key.level.value) == ("alice", "read-only")

    table = lodestream("keys", "list").stdout
    assert re.search(rf"{key.id} +alice +read-only +\S+Z +active", table)
    assert table.splitlines()[0].split() == ["id", "name", "level", "created", "state"]
    assert token not in table
    assert key.digest not in table

    assert lodestream("keys", "revoke", "alice").returncode == 0
    [row] = json.loads(lodestream("keys", "list", "--json").stdout)
    assert (row["id"], row["state"]) == (key.id, "revoked")
    assert Keyring(path).verify(token) is None


def test_the_default_level_generates(lodestream: Lodestream) -> None:
    """Without --level a key is read-write."""
    lodestream("keys", "create", "--name", "a")

    assert json.loads(lodestream("keys", "list", "--json").stdout)[0]["level"] == "read-write"


def test_an_empty_list_says_what_that_means(lodestream: Lodestream) -> None:
    """No keys: nothing on stdout but for JSON, and a word on stderr."""
    done = lodestream("keys", "list")

    assert (done.returncode, done.stdout) == (0, "")
    assert "open" in done.stderr
    assert lodestream("keys", "list", "--json").stdout == "[]\n"


@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_the_keys_file_is_a_setting(lodestream: Lodestream, tmp_path: Path, source: str) -> None:
    """All three sources say where the keys are."""
    path = tmp_path / "elsewhere.json"
    (tmp_path / "c.toml").write_text(f'keys_file = "{path}"\nhttp_address = "127.0.0.1:1"\n')
    arguments = {
        "flag": ["--keys-file", str(path)],
        "variable": [],
        "file": ["--config", str(tmp_path / "c.toml")],
    }
    variables = {"LODESTREAM_KEYS_FILE": str(path)} if source == "variable" else {}

    assert lodestream("keys", "create", "--name", "a", *arguments[source], **variables).returncode == 0
    assert path.exists()


def test_operators_errors_are_one_line(lodestream: Lodestream, tmp_path: Path) -> None:
    """A taken name, an unknown key and a damaged file exit with 1, one line, and nothing on stdout."""
    lodestream("keys", "create", "--name", "a")
    (tmp_path / "bad.json").write_text("{")

    for arguments in (
        ["create", "--name", "a"],
        ["create", "--name", ""],
        ["revoke", "nobody"],
        ["list", "--keys-file", str(tmp_path / "bad.json")],
    ):
        done = lodestream("keys", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"lodestream: [^\n]+\n", done.stderr), done.stderr
