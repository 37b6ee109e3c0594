"""Both engines behind both servers, for as long as the tests for Node take; see run.sh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.servers import pair

MODEL = "smollm2-135m-instruct"
"""The model that the tests ask for, as in servers.js."""
_MINUTES = 10


def main() -> int:
    """Run them; the status is that of Node."""
    # So that the servers end with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    here = Path(__file__).parent
    files = sorted(str(file) for file in here.glob("*.test.js"))
    with (
        pair(backend="simulated") as simulated,
        pair(backend="llama_cpp", model=MODEL, threads="1") as llama_cpp,
    ):
        urls = {
            "LODESTREAM_SIMULATED_URL": f"http://{simulated.bridge.address}",
            "LODESTREAM_LLAMA_CPP_URL": f"http://{llama_cpp.bridge.address}",
        }
        return subprocess.run(
            ["node", "--test", "--test-reporter=spec", "--test-timeout=120000", *files],
            env={**os.environ, **urls},
            timeout=60 * _MINUTES,
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
