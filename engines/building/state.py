"""Which stages of a build are done, kept in a file so that the next run goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_SCHEMA = "lodestream.engine-build"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Done:
    """A stage that was finished."""

    fingerprint: str
    """Of everything that its result depends on."""
    seconds: float


class State:
    """The file. A damaged or foreign one counts as empty: stages are then done again.

    Args:
        path: where; written whole or not at all, after every stage.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done = _read(path)

    def find(self, stage: str, fingerprint: str) -> Done | None:
        """The stage, if it was finished with exactly this fingerprint."""
        done = self._done.get(stage)
        return done if done is not None and done.fingerprint == fingerprint else None

    def finish(self, stage: str, done: Done) -> None:
        """Note that a stage is done."""
        self._done[stage] = done
        self._write()

    def forget(self, stages: Iterable[str]) -> None:
        """Note that stages have to be done again."""
        self._done = {name: done for name, done in self._done.items() if name not in set(stages)}
        self._write()

    def _write(self) -> None:
        stages = {n: {"fingerprint": d.fingerprint, "seconds": d.seconds} for n, d in self._done.items()}
        partial = self._path.with_name(self._path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump({"schema": _SCHEMA, "version": _VERSION, "stages": stages}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)


def fingerprint(*parts: object) -> str:
    """A short name of everything given; the same for equal values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def listing(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of every file in a directory: changes when somebody changes a checkpoint."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def _read(path: Path) -> dict[str, Done]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, Mapping) or document.get("version") != _VERSION:
            return {}
        return {
            name: Done(str(stage["fingerprint"]), float(stage["seconds"]))
            for name, stage in document["stages"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
