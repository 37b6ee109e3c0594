"""The command `lodestream filter check`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lodestream.parser import CommandParser

if TYPE_CHECKING:
    from inference_service.output.content_filter.rules import Rule


def check(arguments: Sequence[str]) -> int:
    """Read a file of rules as the service would, and print a line for each rule.

    Returns:
        0. A file that the service would refuse raises OperatorError: one line on stderr, exit status 1.

    """
    parser = CommandParser(
        "filter check",
        "Reads a file of rules for --content-filter-file as the service would, and prints the rules. "
        "If the service would refuse it, the exit status is 1, and one line says what is wrong and where.",
        {},
        ["lodestream filter check rules.toml"],
        operands="FILE",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the rules, TOML or .json")
    parsed = parser.parse(arguments)
    from inference_service.output.content_filter.rules_file import load_rules

    rules = load_rules(parsed.file).rules
    for rule in rules:
        print(_line(rule))
    print(f"{parsed.file}: {len(rules)} {'rule' if len(rules) == 1 else 'rules'}, all fine")
    return 0


def _line(rule: Rule) -> str:
    place = {"both": "prompts and output", "prompt": "prompts"}.get(rule.place.value, rule.place.value)
    callers = "everybody" if rule.keys is None else "the keys " + ", ".join(sorted(rule.keys))
    found = f"{len(rule.phrases)} phrases, {len(rule.patterns)} patterns"
    return f"{rule.name}: {rule.action.value} in {place}, for {callers}: {found}"
