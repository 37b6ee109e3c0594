"""The memory of one GPU as a bar of text, for terminals of any width, with colours or without."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from engines.memory import Memory
from engines.units import GIB

_WIDEST = 100
_NARROWEST = 20


@dataclass(frozen=True, slots=True)
class Canvas:
    """What can be shown where the text goes."""

    width: int = 80
    """Columns, 20 to 100."""
    has_color: bool = False
    has_unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str] = os.environ) -> Canvas:
        """Look at a stream: its terminal's width, its encoding, and whether colours are wanted.

        They are wanted on a terminal that is not `TERM=dumb`, unless NO_COLOR is set to anything.
        """
        plain = bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
        return cls(
            width=min(max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST), _WIDEST),
            has_color=stream.isatty() and not plain,
            has_unicode=(stream.encoding or "").lower().replace("-", "").startswith("utf"),
        )


@dataclass(frozen=True, slots=True)
class _Part:
    label: str
    """With a `{}` for the size."""
    size: int
    block: str
    ascii: str
    color: int


def memory_bar(memory: Memory, canvas: Canvas) -> str:
    """Draw the bar, and below it what its parts are; no line is wider than the canvas.

    Every part that is not empty has a cell at least, and the cells add up to the width. The workspace is an
    estimate, hence the `~`.
    """
    parts = [
        _Part("weights {}", memory.weights, "█", "#", 34),
        _Part("workspace ~{}", memory.workspace, "▓", "=", 33),
        _Part("KV cache {}", memory.kv_pool, "▒", ":", 32),
        _Part("free {}", memory.left, "░", ".", 37),
    ]
    cells = share([part.size for part in parts], canvas.width)
    bar = "".join(_paint(_mark(part, canvas) * n, part, canvas) for part, n in zip(parts, cells, strict=True))
    return "\n".join([bar, *_legend(parts, canvas)])


def share(sizes: Sequence[int], cells: int) -> list[int]:
    """Share cells out in proportion; whoever has any size gets one at least; the sum is `cells`."""
    total = sum(sizes)
    exact = [size * cells / total for size in sizes]
    shared = [max(int(wish), 1) if size else 0 for size, wish in zip(sizes, exact, strict=True)]
    while (missing := cells - sum(shared)) != 0:
        step = 1 if missing > 0 else -1
        able = [i for i, size in enumerate(sizes) if size and shared[i] + step >= 1]
        shared[max(able, key=lambda i: step * (exact[i] - shared[i]))] += step
    return shared


def _legend(parts: Sequence[_Part], canvas: Canvas) -> list[str]:
    lines: list[str] = []
    used = canvas.width
    for part in parts:
        text = f"{_mark(part, canvas)} {part.label.format(f'{part.size / GIB:.1f} GiB')}"
        painted = _paint(text[0], part, canvas) + text[1:]
        if used + 2 + len(text) > canvas.width:
            lines.append(painted)
            used = len(text)
        else:
            lines[-1] += "  " + painted
            used += 2 + len(text)
    return lines


def _mark(part: _Part, canvas: Canvas) -> str:
    return part.block if canvas.has_unicode else part.ascii


def _paint(text: str, part: _Part, canvas: Canvas) -> str:
    return f"\x1b[{part.color}m{text}\x1b[0m" if canvas.has_color and text else text
