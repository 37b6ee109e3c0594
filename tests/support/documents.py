"""The fenced code blocks of the README and of docs/, as the tests run them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(r"(?:^<!-- not run: (.+) -->\n)?^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_NAME = re.compile(r"(?:#|//) (\S+\.\w+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    page: str
    """The path of its file, from the root of the checkout."""
    line: int
    """Of its fence, counted from 1."""
    language: str
    text: str
    not_run: str | None
    """Why no test runs it: the reason in the comment above it."""

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, as its first line says; None: it is no file of its own."""
        found = _NAME.match(self.text)
        return found[1] if found else None


def pages() -> list[str]:
    """Every page with a block."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(file.relative_to(ROOT)) for file in files if _BLOCK.search(file.read_text("utf-8"))]


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, in their order."""
    text = (ROOT / page).read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, found.start(2)) + 1, found[2], found[3], found[1])
        for found in _BLOCK.finditer(text)
    ]
