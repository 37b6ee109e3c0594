"""One step after the other: one that fails is noted, and stops no other."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one."""

    name: str
    status: Literal["ok", "failed", "skipped"]
    seconds: float
    error: str = ""
    """A traceback, or why it was skipped."""


@dataclass(slots=True)
class Steps:
    """All of them, in order, with their results by name."""

    done: list[Step] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    def run(self, name: str, act: Callable[[], Result]) -> Result | None:
        """Do one; its result, or None if it failed."""
        print(f"gpu-smoke: {name} ...", file=sys.stderr, flush=True)
        begun = time.monotonic()
        try:
            result = act()
        # A server that does not start ends with SystemExit.
        except (Exception, SystemExit):
            self._finish(name, "failed", begun, traceback.format_exc())
            return None
        self.results[name] = result
        self._finish(name, "ok", begun)
        return result

    def fail(self, name: str, error: str) -> None:
        """Say that a step that ended well found something wrong."""
        print(f"gpu-smoke: {name}: failed after all", file=sys.stderr, flush=True)
        self.done = [
            Step(step.name, "failed", step.seconds, error) if step.name == name else step
            for step in self.done
        ]

    def skip(self, name: str, reason: str) -> None:
        self.done.append(Step(name, "skipped", 0.0, reason))

    @property
    def failed(self) -> list[Step]:
        return [step for step in self.done if step.status == "failed"]

    def _finish(self, name: str, status: Literal["ok", "failed"], begun: float, error: str = "") -> None:
        step = Step(name, status, round(time.monotonic() - begun, 2), error)
        print(f"gpu-smoke: {name}: {status} after {step.seconds} s", file=sys.stderr, flush=True)
        self.done.append(step)
