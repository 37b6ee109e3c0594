"""`python -m benchmarks`: runs the scenarios against their targets, or one of the other measurements."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        choices=["scenarios", "cancellation", "constraints", "overhead", "soak"],
        default="scenarios",
        help="what to measure [scenarios]",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="scenarios whose names begin so"
    )
    parser.add_argument(
        "--html", type=Path, default=Path("bench.html"), help="report of the scenarios [bench.html]"
    )
    parser.add_argument("--callers", type=int, default=100, help="that leave, on each transport [100]")
    parser.add_argument("--rounds", type=int, default=10, help="of the overhead [10]")
    parser.add_argument("--minutes", type=float, default=20, help="of the soak [20]")
    parser.add_argument("--collection", type=Path, help="of schemas: lines of JSON, gzipped")
    options = parser.parse_args()
    match options.what:
        case "scenarios":
            from benchmarks import scenarios

            scenarios.measure(options.only, options.html)
        case "cancellation":
            from benchmarks import cancellation

            cancellation.measure(options.callers)
        case "constraints":
            from benchmarks import constraints

            constraints.measure(options.collection)
        case "overhead":
            from benchmarks import overhead

            overhead.measure(options.rounds)
        case "soak":
            from benchmarks import soak

            if not soak.measure(options.minutes):
                raise SystemExit(1)


if __name__ == "__main__":
    main()
