"""`lodestream keys`: the key on stdout, everything else beside it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lodestream_common.keys import Keyring

Lodestream = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_life_of_a_key(lodestream: Lodestream, lodestream_process: Lodestream, home: Path) -> None:
    """Created, recognised, listed, revoked, still listed, no longer recognised; in the default file."""
    path = home / ".config" / "lodestream" / "keys.json"

    created = lodestream_process("keys", "create", "--name", "alice", "--level", "read-only")
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


def test_a_key_with_settings_is_listed_with_them(lodestream: Lodestream) -> None:
    settings = ["--expires", "30d", "--requests-per-minute", "20", "--tokens-per-minute", "9000"]
    settings += ["--max-concurrent", "2", "--models", "a, b"]
    assert lodestream("keys", "create", "--name", "trial", *settings).returncode == 0
    lodestream("keys", "create", "--name", "plain")

    trial, plain = json.loads(lodestream("keys", "list", "--json").stdout)
    limits = [trial[f"{name}_per_minute"] for name in ("requests", "tokens")]
    assert (limits, trial["max_concurrent"]) == ([20, 9000], 2)
    assert (trial["models"], plain["models"], plain["expires"]) == (["a", "b"], [], None)
    head, *rows = lodestream("keys", "list").stdout.splitlines()
    assert re.search(r"created +state +expires +requests/min +tokens/min +at once +models$", head)
    assert re.search(rf"active +{trial['expires']} +20 +9000 +2 +a,b$", rows[0])
    assert re.search(r"active +- +- +- +- +-$", rows[1])


def test_a_key_has_a_priority(lodestream: Lodestream) -> None:
    lodestream("keys", "create", "--name", "plain")
    lodestream("keys", "create", "--name", "nightly", "--priority", "batch")

    rows = json.loads(lodestream("keys", "list", "--json").stdout)
    assert [row["priority"] for row in rows] == ["interactive", "batch"]
    head, plain, nightly = lodestream("keys", "list").stdout.splitlines()
    assert head.endswith("priority")
    assert (plain.split()[-1], nightly.split()[-1]) == ("interactive", "batch")
    done = lodestream("keys", "create", "--name", "x", "--priority", "low")
    assert done.returncode != 0
    assert "--priority: 'low' is not one of interactive, batch" in done.stderr


def test_a_key_is_rotated(lodestream: Lodestream, home: Path) -> None:
    """The new key goes to stdout; the end of the older one is on stderr and in the list."""
    old = lodestream("keys", "create", "--name", "a", "--max-concurrent", "3").stdout.strip()

    done = lodestream("keys", "rotate", "a", "--overlap", "0s")

    assert re.fullmatch(r"pg_[A-Za-z0-9]{40}\n", done.stdout)
    ring = Keyring(home / ".config" / "lodestream" / "keys.json")
    key = ring.verify(done.stdout.strip())
    assert key is not None
    assert (key.name, key.limits.max_concurrent) == ("a", 3)
    assert ring.verify(old) is None
    first, second = json.loads(lodestream("keys", "list", "--json").stdout)
    assert (first["state"], second["state"]) == ("expired", "active")
    assert first["expires"] in done.stderr


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
        ["rotate", "nobody"],
        ["list", "--keys-file", str(tmp_path / "bad.json")],
    ):
        done = lodestream("keys", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"lodestream: [^\n]+\n", done.stderr), done.stderr


@pytest.mark.parametrize(
    "setting",
    [
        ["--expires", "soon"],
        ["--expires", "0s"],
        ["--expires", "999999w"],
        ["--requests-per-minute", "-1"],
        ["--tokens-per-minute", "1000000001"],
        ["--max-concurrent", "1.5"],
        ["--models", ","],
    ],
)
def test_a_setting_out_of_range_is_one_line(lodestream: Lodestream, setting: list[str]) -> None:
    done = lodestream("keys", "create", "--name", "a", "=".join(setting))

    assert (done.returncode != 0, done.stdout) == (True, "")
    assert re.fullmatch(r"lodestream: [^\n]+\n", done.stderr), done.stderr
    assert lodestream("keys", "list", "--json").stdout == "[]\n"
