"""Verifies an engine directory: `verify` without loading the engine, `check_golden` by asking it.

`verify` imports nothing from TensorRT-LLM and uses no GPU. Directories that `trtllm-build` wrote have no
manifest; what cannot be checked there becomes a finding of severity `unchecked`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engines.errors import Finding, Severity
from engines.facts.engine_directory import (
    MANIFEST_FILE,
    EngineConfig,
    UnreadableConfigError,
    read_engine_config,
)
from engines.facts.machine import Runtime, writable_workspace
from engines.facts.toolchain import diagnose
from engines.manifest import Golden, Manifest, ManifestError, read_manifest
from engines.verification import golden_program
from engines.verification.checks import check_against_manifest, check_config, check_machine
from engines.verification.files import check_ranks, check_recorded, check_tokenizer, check_unrecorded


def verify(directory: Path, *, runtime: Runtime | None = None, quick: bool = False) -> list[Finding]:
    """Check an engine directory.

    Args:
        directory: where config.json and the plans are.
        runtime: the machine to load it on, as `engines.facts.machine.probe` finds it; None: any machine,
            so that versions, SM and memory are left out.
        quick: compare sizes of plans only, not their content; everything else is still hashed.

    Returns:
        Findings, errors first, then warnings, then what could not be checked. No errors: it can be served.

    """
    if not directory.is_dir():
        return [Finding(str(directory), "no directory", "an engine directory")]
    order = ("error", "warning", "unchecked")
    found = sorted(_findings(directory, runtime, quick=quick), key=lambda f: order.index(f.severity))
    # Several checks report a missing file; the first finding is kept.
    return list({(f.field, f.found): f for f in reversed(found)}.values())[::-1]


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether the engine must not be served."""
    return any(finding.severity == "error" for finding in findings)


def _findings(directory: Path, runtime: Runtime | None, *, quick: bool) -> Iterator[Finding]:
    config: EngineConfig | None = None
    manifest: Manifest | None = None
    try:
        config = read_engine_config(directory)
    except UnreadableConfigError as error:
        yield from error.findings
    try:
        manifest = read_manifest(directory)
    except ManifestError as error:
        yield from error.findings
    if config is not None:
        yield from check_config(config)
        yield from check_ranks(directory, config)
        if manifest is not None:
            yield from check_against_manifest(config, manifest)
        has_manifest = (directory / MANIFEST_FILE).exists()
        yield from check_unrecorded(directory, config, has_manifest=has_manifest)
    if manifest is not None:
        yield from check_recorded(directory, manifest, quick=quick)
    yield from check_tokenizer(directory, config, manifest)
    if config is not None and runtime is not None:
        yield from check_machine(directory, config, manifest, runtime)


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
    for index, (recorded, found) in enumerate(zip(manifest.golden, answers, strict=True)):
        yield from _compare(index, recorded, found)


class _NoAnswersError(Exception):
    """The program failed; the message is the reason."""


def _ask(directory: Path, manifest: Manifest) -> list[Golden]:
    questions = {
        "prompts": [sample.prompt for sample in manifest.golden],
        "max_tokens": max(1, *(len(sample.ids) for sample in manifest.golden)),
        "stop_ids": manifest.tokenizer.stop_ids if manifest.tokenizer else (),
    }
    with TemporaryDirectory() as scratch:
        questions_file, answers_file = Path(scratch, "questions.json"), Path(scratch, "answers.json")
        questions_file.write_text(json.dumps(questions), encoding="utf-8")
        done = subprocess.run(  # noqa: S603  the command is ours
            ["python3", golden_program.__file__, directory.absolute(), questions_file, answers_file],  # noqa: S607
            cwd=scratch,
            env={**os.environ, **writable_workspace(os.environ)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise _NoAnswersError(diagnose(done.stdout.decode("utf-8", "replace"), done.returncode).why)
        answers = json.loads(answers_file.read_text(encoding="utf-8"))
    return [golden_answer(answer) for answer in answers]


def golden_answer(answer: Mapping[str, Any]) -> Golden:
    """Read one answer of golden_program.py."""
    return Golden(prompt=answer["prompt"], prompt_ids=tuple(answer["prompt_ids"]), ids=tuple(answer["ids"]))


def _compare(index: int, recorded: Golden, found: Golden) -> Iterator[Finding]:
    where = f"golden[{index}]"
    if found.prompt_ids != recorded.prompt_ids:
        yield Finding(f"{where}.prompt_ids", _ids(found.prompt_ids), _ids(recorded.prompt_ids))
    elif found.ids != recorded.ids:
        same_beginning = found.ids[:1] == recorded.ids[:1]
        severity: Severity = "warning" if same_beginning else "error"
        yield Finding(f"{where}.ids", _ids(found.ids), _ids(recorded.ids), severity)


def _ids(ids: tuple[int, ...]) -> str:
    return " ".join(map(str, ids)) or "none"
