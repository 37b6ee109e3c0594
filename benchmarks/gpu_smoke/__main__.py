"""Tests Lodestream with the TensorRT-LLM of a machine with a GPU, and writes one report.

The exit status is 1 if something failed, and 2 where there is no GPU or no TensorRT-LLM.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from engines.facts.machine import Runtime, probe


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_smoke", description=__doc__)
    add = parser.add_argument
    add("--can-run", action="store_true", help="only say whether this machine has what it takes")
    add("--report", type=Path, default=Path("gpu-smoke.md"), metavar="FILE", help="default: gpu-smoke.md")
    add(
        "--engine",
        type=Path,
        metavar="DIR",
        help="ask this engine; default: build small ones, and ask one of them",
    )
    add("--examples", type=Path, metavar="DIR", help="`examples` of TensorRT-LLM's source tree")
    add("--streams", type=int, nargs="+", default=[1, 16, 64, 256], metavar="N", help="1 16 64 256")
    add("--tokens", type=int, default=256, metavar="N", help="of each stream of the benchmark (256)")
    parsed = parser.parse_args()
    runtime = probe()
    if lacking := _lacking(runtime):
        print(f"gpu-smoke: this machine has no {lacking}; run it in NVIDIA's image of TensorRT-LLM")
        return 2
    return 0 if parsed.can_run else _run(runtime, parsed)


def _lacking(runtime: Runtime) -> str:
    there = {"GPU": runtime.gpus, "TensorRT-LLM": runtime.tensorrt_llm}
    return " and no ".join(name for name, found in there.items() if not found)


def _run(runtime: Runtime, parsed: argparse.Namespace) -> int:
    # Everything from here on needs more than the standard library.
    from benchmarks.gpu_smoke.report import report
    from benchmarks.gpu_smoke.run import Options, run

    with tempfile.TemporaryDirectory(prefix="gpu-smoke-") as work:
        engine = parsed.engine and parsed.engine.absolute()
        options = Options(Path(work), engine, parsed.examples, parsed.streams, parsed.tokens)
        steps = run(runtime, options)
    parsed.report.write_text(report(steps), encoding="utf-8")
    failed = ", ".join(step.name for step in steps.failed)
    print(f"gpu-smoke: {f'failed: {failed}' if failed else 'all went well'}; please send {parsed.report}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
