"""The rival of the speed table: the gateway `smg` from PyPI before a bare Python gRPC worker.

Both run in an environment of their own below the cache, which is made when it is first needed.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from inference_service.config import cache_home
from inference_service.models import loader
from inference_service.models.tokenizer_files import tokenizer_files

PACKAGES = ("smg==1.13.0", "smg-grpc-proto==0.4.28", "grpcio==1.85.1", "uvloop==0.23.0")
"""The packages of the gateway, in the versions of the figures in README.md."""

_READY_SECONDS = 60.0


@contextmanager
def rival(model: str, tokens_per_second: float, programs: Path | None = None) -> Iterator[str]:
    """Run the gateway before one worker, until the context ends; the gateway's URL.

    Args:
        model: whose tokenizer and chat template the gateway uses, by its name in the catalog.
        tokens_per_second: what the worker makes for each stream.
        programs: where `python` and `smg` are; None: in the environment below the cache.

    Raises:
        SystemExit: the packages cannot be installed, or a process does not become ready.

    """
    programs = programs or installed()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = loader.resolve(model, cache_home(), show_progress=True).path
        write_tokenizer(path, home)
        worker = subprocess.Popen(
            [programs / "python", Path(__file__).with_name("rival_worker.py"), str(tokens_per_second)],
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(_end, worker)
        assert worker.stdout is not None
        port = worker.stdout.readline().strip()
        if not port:
            raise SystemExit("the rival's worker did not start")
        yield stack.enter_context(gateway(programs / "smg", [f"grpc://127.0.0.1:{port}"], home))


def installed() -> Path:
    """The directory of the environment's programs; makes the environment where there is none.

    Raises:
        SystemExit: pip cannot install the packages.

    """
    home = cache_home() / "benchmarks" / "smg"
    mark = home / "packages.json"
    programs = home / "bin"
    if mark.is_file() and json.loads(mark.read_text()) == list(PACKAGES):
        return programs
    print(f"installing {', '.join(PACKAGES)} into {home}", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    pip: list[str | Path] = [
        programs / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--only-binary=:all:",
        *PACKAGES,
    ]
    if subprocess.run(pip, check=False).returncode:
        raise SystemExit(
            f"pip cannot install the rival ({', '.join(PACKAGES)}): see above. The scenarios that "
            "compare with it need an index with wheels for this machine; `--only` runs the others."
        )
    mark.write_text(json.dumps(PACKAGES))
    return programs


def write_tokenizer(model: Path, directory: Path) -> None:
    """Write the tokenizer of a model file where the gateway reads it, `--model-path`."""
    for name, content in tokenizer_files(model).items():
        (directory / name).write_bytes(content)


@contextmanager
def gateway(program: Path, workers: Sequence[str], tokenizer: Path, *options: str) -> Iterator[str]:
    """Run the gateway until the context ends; its URL.

    Args:
        program: `smg`.
        workers: their URLs, grpc://HOST:PORT.
        tokenizer: a directory with tokenizer.json.
        options: further ones of `smg launch`.

    Raises:
        SystemExit: it does not answer a request within a minute.

    """
    port, metrics_port = free_ports(2)
    command: list[str | Path] = [
        program,
        "launch",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--worker-urls",
        *workers,
    ]
    command += ["--model-path", tokenizer, "--worker-startup-check-interval", "1", "--log-level", "error"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_ready(process, url, len(workers))
        yield url
    finally:
        _end(process)


def free_ports(number: int) -> list[int]:
    """Ports of the loopback interface that nothing listened on a moment ago: the gateway takes no port 0."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]


def _wait_ready(process: subprocess.Popen[bytes], url: str, workers: int) -> None:
    """Wait until every worker is ready, and a request is answered: the tokenizer comes after the workers."""
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/workers", timeout=5) as answer:
                ready = [one["model_id"] for one in json.load(answer)["workers"] if one["status"] == "ready"]
            body = json.dumps({"model": ready[workers - 1], "prompt": "the", "max_tokens": 1}).encode()
            request = urllib.request.Request(
                f"{url}/v1/completions", body, {"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=5).close()
        except (OSError, LookupError):
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the gateway did not become ready")


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
