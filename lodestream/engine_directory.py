"""The commands `lodestream engine verify`, `inspect` and `adopt`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lodestream.parser import CommandParser
from lodestream_common.errors import OperatorError

if TYPE_CHECKING:
    from engines.errors import Finding


def verify(arguments: Sequence[str]) -> int:
    """Print one line for each finding.

    Returns:
        0: the engine can be served; 1: there is an error. Warnings and skipped checks do not count.

    """
    parser = CommandParser(
        "engine verify",
        "Checks an engine directory: format, versions, plans, limits, tokenizer, hashes, and, where there is "
        "a GPU, its architecture and memory. One line for each finding; exit status 1 if there is an error.",
        {},
        ["lodestream engine verify ./engine", "lodestream engine verify ./engine --quick --json"],
        operands="DIR [--quick] [--golden] [--json]",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="engine directory")
    parser.add_argument(
        "--quick", action="store_true", help="skip the hashes of the plans, which have gigabytes"
    )
    parser.add_argument(
        "--golden",
        action="store_true",
        help="load the engine too, and compare its answers with the golden ones",
    )
    parser.add_argument("--json", action="store_true", help="a JSON array instead of lines")
    parsed = parser.parse(arguments)
    from engines.facts.machine import probe
    from engines.manifest import read_manifest
    from engines.verification.verify import check_golden, has_errors
    from engines.verification.verify import verify as check

    findings = check(parsed.directory, runtime=probe(), quick=parsed.quick)
    # An engine with errors may crash the process that loads it.
    if parsed.golden and not has_errors(findings):
        findings += check_golden(parsed.directory, read_manifest(parsed.directory))
    print_findings(findings, as_json=parsed.json)
    return 1 if has_errors(findings) else 0


def inspect(arguments: Sequence[str]) -> int:
    """Print the contents of an engine directory."""
    parser = CommandParser(
        "engine inspect",
        "Shows the contents of an engine directory: model, format, limits, tokenizer, build, files.",
        {},
        ["lodestream engine inspect ./engine"],
        operands="DIR [--json]",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="engine directory")
    parser.add_argument("--json", action="store_true", help="a JSON object instead of a table")
    parsed = parser.parse(arguments)
    from engines.errors import EngineError
    from engines.verification import describe

    try:
        if parsed.json:
            print(json.dumps(describe.document(parsed.directory), indent=2))
        else:
            print(describe.describe(parsed.directory))
    except EngineError as error:
        raise OperatorError(f"{parsed.directory}: {error}", error.details) from None
    return 0


def adopt(arguments: Sequence[str]) -> int:
    """Write a manifest for an engine that has none."""
    parser = CommandParser(
        "engine adopt",
        "Writes manifest.json for an engine that was built elsewhere, by trtllm-build for example, so that "
        "it can be verified from then on. Run it on the machine and in the image that built the engine: "
        "versions and GPU are noted from there.",
        {},
        ["lodestream engine adopt ./engine --checkpoint ./Llama-3.1-8B-Instruct"],
        operands="DIR [--checkpoint DIR] [--model-id NAME] [--revision COMMIT]",
    )
    add = parser.add_argument
    add("directory", type=Path, metavar="DIR", help="engine directory")
    add("--checkpoint", type=Path, metavar="DIR", help="copy tokenizer and chat template from there")
    add("--model-id", metavar="NAME", help="serve under this name [default: the checkpoint's]")
    add("--revision", metavar="COMMIT", help="of the checkpoint [default: what its directory says]")
    parsed = parser.parse(arguments)
    from engines.building.record import adopt as write
    from engines.errors import EngineError

    try:
        findings = write(
            parsed.directory, parsed.checkpoint, model_id=parsed.model_id, revision=parsed.revision
        )
    except (EngineError, OSError) as error:
        raise OperatorError(
            f"{parsed.directory} is not adopted: {error}", getattr(error, "details", ())
        ) from None
    print_findings(findings, as_json=False)
    print(f"wrote {parsed.directory / 'manifest.json'}")
    return 0


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print a line for each finding, with its severity unless it is an error, or `no findings`."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    for finding in findings:
        mark = "" if finding.severity == "error" else f"{finding.severity}: "
        print(f"{mark}{finding}")
    if not findings:
        print("no findings", file=sys.stderr)
