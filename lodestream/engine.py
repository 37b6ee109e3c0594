"""`lodestream engine plan`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lodestream.parser import CommandParser
from lodestream.plan_flags import add_plan_flags, make_plan


def plan(arguments: Sequence[str]) -> int:
    """Print a plan, as text or as JSON.

    Returns:
        0. A plan that is refused is a SettingError: one line on stderr, exit status 2, nothing on stdout.

    """
    parser = CommandParser(
        "engine plan",
        "Plans a TensorRT-LLM engine for a GPU, on any machine: what goes into its memory, how many requests "
        "fit, how fast it can be at best, and the commands that build it. What cannot be built is refused "
        "with the reason in one line, and exit status 2.",
        {},
        [
            "lodestream engine plan --gpu l4",
            "lodestream engine plan --gpu h100 --model ./Llama-3.1-8B-Instruct-FP8 --max-seq-len 16384",
            "lodestream engine plan --gpu a10 --input-len 1500 --output-len 300 --json",
        ],
        operands="--gpu NAME [--model DIR] [--FLAG VALUE ...] [--json]",
    )
    add_plan_flags(parser)
    parser.add_argument(
        "--output", default="engine", metavar="DIR", help="engine directory in the commands [default: engine]"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object instead of text")
    parsed = parser.parse(arguments)
    from engines.planning import document, report
    from engines.planning.recipe import Paths
    from engines.planning.report import Canvas

    made = make_plan(parsed)
    paths = Paths(model=made.model.path or Paths().model, engine=parsed.output)
    print(document.to_json(made, paths) if parsed.json else report.report(made, Canvas.of(sys.stdout), paths))
    return 0
