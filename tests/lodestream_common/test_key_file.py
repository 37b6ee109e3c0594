"""The file of API keys: what is stored, who may write, what is refused."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lodestream_common.errors import OperatorError
from lodestream_common.keys import KeyFile, KeyLimits, Keyring, Level, Priority


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "keys.json"


def test_a_key_is_long_random_and_never_stored(path: Path) -> None:
    """The token has the form of a key; the file holds its SHA-256 and not the token."""
    key, token = KeyFile(path).create("alice")
    _, other = KeyFile(path).create("bob")

    assert re.fullmatch(r"pg_[A-Za-z0-9]{32,}", token)
    assert token != other
    assert token not in path.read_text()
    assert key.digest == hashlib.sha256(token.encode()).hexdigest()
    assert key.digest not in repr(key)


def test_file_and_directory_are_the_owners_alone(path: Path) -> None:
    """The file is 0600 and its new directory 0700, after the first write and after the next."""
    for name in ("alice", "bob"):
        KeyFile(path).create(name)

        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_keys_are_listed_in_order_of_creation(path: Path) -> None:
    """The list has the created keys with their levels, oldest first."""
    file = KeyFile(path)
    made = [file.create(name, level)[0] for name, level in zip("abc", Level, strict=True)]

    assert file.list() == tuple(made)
    assert KeyFile(path.with_name("absent.json")).list() == ()


def test_listing_makes_nothing(path: Path) -> None:
    """Only a write makes file and directory."""
    assert KeyFile(path).list() == ()
    assert not path.parent.exists()


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_revoked_key_stays_on_the_list(path: Path, by: str) -> None:
    """A key is revoked by name or id, keeps its entry, and cannot be revoked twice."""
    file = KeyFile(path)
    key, _ = file.create("alice")
    identity = getattr(key, by)

    assert not file.revoke(identity).is_active
    assert [(k.id, k.is_active) for k in file.list()] == [(key.id, False)]
    with pytest.raises(OperatorError, match="no active key"):
        file.revoke(identity)


def test_a_name_is_taken_only_as_long_as_its_key_is_active(path: Path) -> None:
    """Two active keys never share a name; a revoked key gives its name back."""
    file = KeyFile(path)
    first, _ = file.create("alice")

    with pytest.raises(OperatorError, match="'alice' exists already"):
        file.create("alice")
    with pytest.raises(OperatorError, match="exists already"):
        file.create(first.id)
    file.revoke("alice")
    second, _ = file.create("alice")

    assert file.revoke("alice").id == second.id


@pytest.mark.parametrize("name", ["", "a" * 65, " alice", "alice ", "a\nb", "a\x00", "a\x1b[31m"])
def test_a_malformed_name_is_refused(path: Path, name: str) -> None:
    """Names are 1 to 64 printable characters without spaces around them; nothing is written otherwise."""
    with pytest.raises(OperatorError, match="1 to 64 printable"):
        KeyFile(path).create(name)

    assert not path.exists()


def test_long_and_foreign_names_are_fine(path: Path) -> None:
    """64 characters of any script, spaces within."""
    for name in ("é" * 64, "CI of 計算機"):
        assert KeyFile(path).create(name)[0].name == name


def _entry(**changes: object) -> dict[str, object]:
    sound = {"id": "key_1", "name": "a", "level": "admin", "digest": "0" * 64, "created": 1, "revoked": None}
    return {**sound, **changes}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "nonsense",
        "[]",
        "null",
        "{}",
        '{"version": 1}',
        '{"version": 1, "keys": [1]}',
        '{"version": 1, "keys": {"a": 1}}',
        json.dumps({"version": 2, "keys": []}),
        json.dumps({"version": 1, "keys": [_entry(level="root")]}),
        json.dumps({"version": 1, "keys": [_entry(digest="0")]}),
        json.dumps({"version": 1, "keys": [_entry(digest="0" * 62)]}),
        json.dumps({"version": 1, "keys": [_entry(digest=None)]}),
        json.dumps({"version": 1, "keys": [_entry(created="today")]}),
        json.dumps({"version": 1, "keys": [_entry(extra=1)]}),
        json.dumps({"version": 1, "keys": [{"id": "key_1"}]}),
        "\udcff",
        "[" * 100_000,
        '{"version": 1, "keys": ' + '{"a": ' * 100_000,
        json.dumps({"version": 1, "keys": [_entry(name="a\x1b[31m")]}),
        json.dumps({"version": 1, "keys": [_entry(name="\ud800")]}),
        json.dumps({"version": 1, "keys": [_entry(id="")]}),
        json.dumps({"version": 1, "keys": [_entry(created=10**20)]}),
        json.dumps({"version": 1, "keys": [_entry(created=-1)]}),
        json.dumps({"version": 1, "keys": [_entry(revoked=True)]}),
        json.dumps({"version": [1], "keys": []}),
        json.dumps({"version": 1, "keys": [_entry(expires="never")]}),
        json.dumps({"version": 1, "keys": [_entry(expires=None)]}),
        json.dumps({"version": 1, "keys": [_entry(expires=True)]}),
        json.dumps({"version": 1, "keys": [_entry(expires=10**20)]}),
        json.dumps({"version": 1, "keys": [_entry(limits=[])]}),
        json.dumps({"version": 1, "keys": [_entry(limits={"requests_per_minute": -1})]}),
        json.dumps({"version": 1, "keys": [_entry(limits={"tokens_per_minute": 1.5})]}),
        json.dumps({"version": 1, "keys": [_entry(priority="low")]}),
        json.dumps({"version": 1, "keys": [_entry(priority=1)]}),
        json.dumps({"version": 1, "keys": [_entry(limits={"max_concurrent": True})]}),
        json.dumps({"version": 1, "keys": [_entry(limits={"requests_per_second": 1})]}),
        json.dumps({"version": 1, "keys": [_entry(models="a,b")]}),
        json.dumps({"version": 1, "keys": [_entry(models=[1])]}),
        json.dumps({"version": 1, "keys": [_entry(models=[""])]}),
        '{"version": 1' + "0" * 10_000 + ', "keys": []}',
    ],
)
def test_a_damaged_file_is_named_and_not_changed(path: Path, content: str) -> None:
    """Whatever is no key file is an error that names it, for readers and writers, and is not overwritten."""
    path.parent.mkdir()
    raw = content.encode("utf-8", "surrogateescape")
    path.write_bytes(raw)

    for use in (KeyFile(path).list, lambda: KeyFile(path).create("b"), lambda: KeyFile(path).revoke("a")):
        with pytest.raises(OperatorError, match=re.escape(str(path))):
            use()
    assert path.read_bytes() == raw


def test_a_sound_entry_is_accepted(path: Path) -> None:
    """The cases above fail by what they change."""
    path.parent.mkdir()
    path.write_text(json.dumps({"version": 1, "keys": [_entry()]}))

    assert [key.level for key in KeyFile(path).list()] == [Level.ADMIN]


def test_settings_are_read_back(path: Path) -> None:
    """A key without settings is written as before they existed, so that an older server can read the file."""
    file = KeyFile(path)
    limits = KeyLimits(requests_per_minute=0, max_concurrent=3)
    plain, _ = file.create("plain")
    key, _ = file.create("trial", lifetime=60, limits=limits, models=("a", "b"), priority=Priority.BATCH)

    assert file.list() == (plain, key)
    assert key.expires == key.created + 60
    old, new = json.loads(path.read_text())["keys"]
    assert old.keys() == {"id", "name", "level", "digest", "created", "revoked"}
    assert new["priority"] == "batch"
    assert new["limits"] == {"requests_per_minute": 0, "max_concurrent": 3}


def test_an_expired_key_is_not_active_and_gives_its_name_back(path: Path) -> None:
    file = KeyFile(path)
    _, token = file.create("alice", lifetime=0)

    assert not file.list()[0].is_active
    assert Keyring(path).verify(token) is None
    assert file.create("alice")[0].is_active


def test_a_rotated_key_has_a_successor_with_its_settings(path: Path) -> None:
    """Both are active during the overlap. The successor lives as long as the first one would have."""
    file = KeyFile(path)
    limits = KeyLimits(tokens_per_minute=500)
    batch = Priority.BATCH
    first, old_token = file.create(
        "alice", Level.ADMIN, lifetime=1000, limits=limits, models=("a",), priority=batch
    )

    key, token, old = file.rotate("alice", 60)
    again, _, _ = file.rotate("alice", 0)

    assert (key.name, key.level, key.limits, key.models) == ("alice", Level.ADMIN, limits, ("a",))
    assert (key.priority, again.priority) == (batch, batch)
    assert (old.id, old.expires) == (first.id, key.created + 60)
    assert key.expires == key.created + 1000
    assert again.expires == again.created + 1000
    ring = Keyring(path)
    assert ring.verify(old_token) == old
    assert ring.verify(token) is None
    with pytest.raises(OperatorError, match="exists already"):
        file.create("alice")


def test_no_overlap_makes_an_expiry_later(path: Path) -> None:
    file = KeyFile(path)
    first, _ = file.create("alice", lifetime=10)

    assert file.rotate("alice", 3600)[2].expires == first.expires


def test_a_name_is_revoked_with_all_its_keys(path: Path) -> None:
    file = KeyFile(path)
    file.create("alice")
    file.rotate("alice", 3600)

    file.revoke("alice")

    assert [key.is_active for key in file.list()] == [False, False]
    with pytest.raises(OperatorError, match="no active key"):
        file.rotate("alice", 0)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"limits": KeyLimits(requests_per_minute=-1)}, "requests_per_minute .* 0 to 1000000"),
        ({"limits": KeyLimits(tokens_per_minute=10**10)}, "tokens_per_minute .* 0 to 1000000000"),
        ({"models": ("",)}, "models"),
        ({"lifetime": 10**12}, "9999"),
    ],
)
def test_malformed_settings_are_refused(path: Path, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(OperatorError, match=problem):
        KeyFile(path).create("alice", **settings)

    assert not path.exists()


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A directory that cannot be made is an error that names the file."""
    (tmp_path / "blocked").write_text("a file")

    with pytest.raises(OperatorError, match=r"blocked/keys\.json: cannot be written"):
        KeyFile(tmp_path / "blocked" / "keys.json").create("alice")


def test_a_symbolic_link_is_written_through(path: Path, tmp_path: Path) -> None:
    """If the file is a link, its target is replaced and the link stays."""
    link = tmp_path / "link.json"
    link.symlink_to(path)

    KeyFile(link).create("alice")

    assert link.is_symlink()
    assert [key.name for key in KeyFile(path).list()] == ["alice"]


_CREATE_SOME = """
import sys
from pathlib import Path
from typing import Any
from lodestream_common.keys import KeyFile
for number in range(10):
    print(KeyFile(Path(sys.argv[1])).create(sys.argv[2] + str(number))[0].id)
"""


def test_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    """Four processes create ten keys each; all forty are there, and no draft is left over."""
    workers = [
        subprocess.Popen([sys.executable, "-c", _CREATE_SOME, path, name], stdout=subprocess.PIPE, text=True)
        for name in "abcd"
    ]
    made = {key_id for worker in workers for key_id in worker.communicate(timeout=60)[0].split()}

    assert len(made) == 40
    assert {key.id for key in KeyFile(path).list()} == made
    assert {entry.name for entry in path.parent.iterdir()} == {"keys.json", "keys.json.lock"}


@pytest.mark.parametrize("have", Level)
@pytest.mark.parametrize("need", Level)
def test_a_level_includes_those_below(have: Level, need: Level) -> None:
    """read-only < read-write < admin."""
    rank = {Level.READ_ONLY: 0, Level.READ_WRITE: 1, Level.ADMIN: 2}

    assert have.allows(need) == (rank[have] >= rank[need])
