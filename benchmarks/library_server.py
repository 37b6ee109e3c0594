"""Runs the embedded engine library's own HTTP server; prints its URL and serves until it is terminated."""

from __future__ import annotations

import sys
import time

from benchmarks.engine import EngineArguments, load_engine


def main() -> None:
    engine = load_engine(EngineArguments.of(sys.argv[1:]))
    print(engine.listening_address, flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
