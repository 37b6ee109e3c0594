"""Whether the engine still answers as it did right after its build. Needs the GPU, and loads the engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from engines.building import golden_program
from engines.building.failures import diagnose
from engines.finding import Finding, Severity
from engines.manifest import Golden, Manifest


def check_golden(directory: Path, manifest: Manifest | None) -> Iterator[Finding]:
    """Ask the engine the manifest's prompts again, with the `python3` that has TensorRT-LLM.

    An answer that goes another way after some tokens is a warning: kernels may differ in the last bit. One
    whose very first token is another is an error.
    """
    if manifest is None or not manifest.golden:
        yield Finding("golden", "no answers in a manifest", "some, to compare with", "unchecked")
        return
    try:
        answers = _ask(directory, manifest)
    except _NoAnswersError as error:
        yield Finding("golden", f"no answers: {error}", f"those to {len(manifest.golden)} prompts")
        return
    for index, (noted, found) in enumerate(zip(manifest.golden, answers, strict=True)):
        yield from _compare(index, noted, found)


class _NoAnswersError(Exception):
    """The program failed; the message says why."""


def _ask(directory: Path, manifest: Manifest) -> list[Golden]:
    questions = {
        "prompts": [sample.prompt for sample in manifest.golden],
        "max_tokens": max(1, *(len(sample.ids) for sample in manifest.golden)),
        "stop_ids": manifest.tokenizer.stop_ids if manifest.tokenizer else (),
    }
    with TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "asked.json"), Path(scratch, "answered.json")
        asked.write_text(json.dumps(questions), encoding="utf-8")
        done = subprocess.run(  # noqa: S603  the command is ours
            ["python3", golden_program.__file__, directory.absolute(), asked, answered],  # noqa: S607
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise _NoAnswersError(diagnose(done.stdout.decode("utf-8", "replace"), done.returncode).why)
        answers = json.loads(answered.read_text(encoding="utf-8"))
    return [Golden(a["prompt"], tuple(a["prompt_ids"]), tuple(a["ids"])) for a in answers]


def _compare(index: int, noted: Golden, found: Golden) -> Iterator[Finding]:
    where = f"golden[{index}]"
    if found.prompt_ids != noted.prompt_ids:
        yield Finding(f"{where}.prompt_ids", _ids(found.prompt_ids), _ids(noted.prompt_ids))
    elif found.ids != noted.ids:
        same_beginning = found.ids[:1] == noted.ids[:1]
        severity: Severity = "warning" if same_beginning else "error"
        yield Finding(f"{where}.ids", _ids(found.ids), _ids(noted.ids), severity)


def _ids(ids: tuple[int, ...]) -> str:
    return " ".join(map(str, ids)) or "none"
