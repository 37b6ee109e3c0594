"""`python -m benchmarks`: every measurement, or those that are named."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "what",
        nargs="*",
        choices=["throughput", "memory", "cancellation", "constraints", "soak", []],
        help="default: all but constraints and soak",
    )
    parser.add_argument("--rounds", type=int, default=7, help="runs behind each median (7)")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--threads", type=int, default=0, help="of each engine (0: one for each core)")
    parser.add_argument("--callers", type=int, default=100, help="that leave, at each door (100)")
    parser.add_argument("--minutes", type=float, default=20, help="of the soak (20)")
    parser.add_argument("--collection", type=Path, help="of schemas: lines of JSON, gzipped")
    options = parser.parse_args()
    wanted = options.what or ["throughput", "memory", "cancellation"]
    if "throughput" in wanted:
        from benchmarks import throughput

        throughput.measure(options.streams, options.rounds, options.threads)
    if "memory" in wanted:
        from benchmarks import memory

        memory.measure()
    if "cancellation" in wanted:
        from benchmarks import cancellation

        cancellation.measure(options.callers)
    if "constraints" in wanted:
        from benchmarks import constraints

        constraints.measure(options.collection)
    if "soak" in wanted:
        from benchmarks import soak

        if not soak.measure(options.minutes):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
