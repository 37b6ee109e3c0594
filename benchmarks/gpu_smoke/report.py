"""Runs steps that may fail, and writes a report about them."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from benchmarks.gpu_smoke.differences import MEANINGS, Difference
from benchmarks.gpu_smoke.expected import ANSWERS

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one step."""

    name: str
    status: Literal["ok", "failed", "skipped"]
    seconds: float
    error: str = ""
    """A traceback, or the reason why the step was skipped."""


@dataclass(slots=True)
class Steps:
    """All steps in order, and their results by name."""

    done: list[Step] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    def run(self, name: str, act: Callable[[], Result]) -> Result | None:
        """Run one step. Return its result, or None if it failed."""
        print(f"gpu-smoke: {name} ...", file=sys.stderr, flush=True)
        begun = time.monotonic()
        try:
            result = act()
        # A server that does not start raises SystemExit.
        except (Exception, SystemExit):
            self._finish(name, "failed", begun, traceback.format_exc())
            return None
        self.results[name] = result
        self._finish(name, "ok", begun)
        return result

    def fail(self, name: str, error: str) -> None:
        """Mark a step as failed that ran to its end but found an error."""
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


def report(steps: Steps) -> str:
    """The report in Markdown."""
    parts = [
        "# GPU smoke test",
        *_machine(steps.results.get("machine", {})),
        "## Steps",
        _table(("step", "outcome", "seconds"), [(s.name, s.status, s.seconds) for s in steps.done]),
        *_differences(steps.results.get("differences", [])),
        *_behaviour(steps.results.get("behaviour", {})),
        *_checks(steps.results.get("transports", {})),
        *_suite(steps.results.get("contract suite", [])),
        *_load(steps.results.get("benchmark", [])),
        *_errors(steps),
        "## Everything, as JSON",
        _fenced(json.dumps(document(steps), indent=1, default=str), "json"),
    ]
    return "\n\n".join(parts) + "\n"


def document(steps: Steps) -> dict[str, Any]:
    """The report as a JSON document."""
    results = {
        **steps.results,
        "differences": [asdict(difference) for difference in steps.results.get("differences", [])],
    }
    return {"steps": [asdict(step) for step in steps.done], "results": results}


def _machine(machine: Mapping[str, Any]) -> Iterator[str]:
    for gpu in machine.get("gpus", ()):
        yield f"- {gpu['name']}, SM {gpu['sm']}, {gpu['memory_bytes'] / 2**30:.1f} GiB"
    plain = ("driver", "cuda", "tensorrt", "tensorrt_llm", "python", "platform", "cpus", "commit")
    yield "\n".join(f"- {name}: {machine.get(name)}" for name in plain)
    yield _table(("package", "version"), machine.get("packages", {}).items())


def _differences(differences: Sequence[Difference]) -> Iterator[str]:
    yield "## Differences from what our code expects"
    for kind, meaning in MEANINGS.items():
        rows = [(d.part, d.name, d.note) for d in differences if d.kind == kind]
        yield f"### {kind}: {meaning}\n\n{_table(('part', 'name', 'note'), rows)}"


def _behaviour(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## How the engine behaves"
    answers = found.get("answers", {})
    rows = [
        (name, answers[name], expected, "" if answers[name] == expected else "differs")
        for name, expected in ANSWERS.items()
        if name in answers
    ]
    yield _table(("question", "answer", "answer of the double", ""), rows)


def _checks(checks: Mapping[str, str]) -> Iterator[str]:
    yield "## Both transports"
    rows = [(name, outcome.strip().splitlines()[-1]) for name, outcome in checks.items()]
    yield _table(("check", "outcome"), rows)


def _suite(lines: Sequence[str]) -> Iterator[str]:
    yield "## The contract of all backends"
    yield _fenced("\n".join(lines)) if lines else "Nothing."


def _load(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Speed"
    names = ("streams", "transport", "tokens_per_second", "ttft_median_ms", "ttft_p95_ms")
    yield _table(names, [[row[name] for name in names] for row in rows])


def _errors(steps: Steps) -> Iterator[str]:
    yield "## What went wrong"
    failed = [step for step in steps.done if step.error]
    for step in failed:
        yield f"### {step.name}: {step.status}\n\n{_fenced(step.error.strip())}"
    if not failed:
        yield "Nothing."


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    if not lines:
        return "Nothing."
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *lines])


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _fenced(text: str, language: str = "") -> str:
    return f"~~~~{language}\n{text}\n~~~~"
