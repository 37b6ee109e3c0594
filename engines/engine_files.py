"""The files of an engine directory: which there are, their sizes and hashes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

MANIFEST_FILE = "manifest.json"

_CHUNK = 4 * 1024**2
_ENGINE = re.compile(r"rank\d+(\.engine|_managed_weights\.safetensors)")
_RANK = re.compile(r"rank(\d+)\.engine")


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file is known by."""

    size: int
    """Bytes."""
    sha256: str
    """64 lower-case hexadecimal digits."""


def engine_files(directory: Path) -> tuple[str, ...]:
    """Every file below, by its path from there with `/`, sorted; no manifest, no hidden files."""
    found = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    names = (path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
    return tuple(sorted(name for name in names if name != MANIFEST_FILE))


def ranks(directory: Path) -> tuple[int, ...]:
    """The ranks that have a file, in order."""
    matches = (_RANK.fullmatch(path.name) for path in directory.iterdir())
    return tuple(sorted(int(match.group(1)) for match in matches if match))


def is_large(name: str) -> bool:
    """Whether it is a file of gigabytes: a plan, or weights beside it."""
    return _ENGINE.fullmatch(name) is not None


def sha256_of(path: Path) -> str:
    """Hash a file of any size.

    Raises:
        OSError: it cannot be read.

    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def facts_of(path: Path) -> FileFacts:
    """Measure and hash a file.

    Raises:
        OSError: it cannot be read.

    """
    return FileFacts(path.stat().st_size, sha256_of(path))
