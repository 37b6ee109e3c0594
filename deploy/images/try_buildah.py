"""Runs the images `cpu` and `bridge` with buildah alone, and puts the API page's request to them.

Needs root. The servers listen on this machine's loopback, on ports of the system's choice. The model comes
out of the user's cache if it is there; else the image fetches it into a volume. Quotas are counted in a
Redis, receipts kept in a PostgreSQL and traces sent to a receiver, all on this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from third_parties import receiving_traces, redis_ran_scripts, running_postgres, running_redis

USER = 10001
MODEL = "smollm2-135m-instruct"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lodestream"
SECONDS = 60


class Container:
    """A container of an image, with /keys and /models mounted out of a directory of this machine."""

    def __init__(self, image: str, volumes: Path, variables: dict[str, str]) -> None:
        self.name = f"{image}-try"
        self.log = volumes / f"{image}.log"
        self._volumes = volumes
        self._variables = variables
        self._server: subprocess.Popen[bytes] | None = None
        buildah("from", "--name", self.name, f"localhost/{image}")
        self.config: dict[str, Any] = json.loads(buildah("inspect", self.name))["Docker"]["config"]
        for volume in self.config["Volumes"]:
            # buildah would mount an empty volume of its own over ours.
            buildah("config", "--volume", f"{volume}-", self.name)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if self._server is not None and self._server.poll() is None:
            os.kill(innermost(self._server.pid), signal.SIGKILL)
            self._server.wait(SECONDS)
        if kind is not None and self.log.exists():
            say(f"the log of {self.name}:\n{self.log.read_text('utf-8', 'replace')}")
        buildah("rm", self.name)

    def run(self, *command: str, writable: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command inside, to its end."""
        return subprocess.run(  # noqa: S603
            self._line(command, writable=writable),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def start(self) -> None:
        """Run what the image runs by itself."""
        with self.log.open("wb") as log:
            line = self._line([*self.config["Entrypoint"], *self.config["Cmd"]], writable=False)
            self._server = subprocess.Popen(line, stdout=log, stderr=log)  # noqa: S603

    def check_health(self) -> None:
        """Run the image's own health check once, and see that it succeeds."""
        result = self.run(*self.config["Healthcheck"]["Test"][1:])
        say(f"{self.name}: health check: {result.stdout.strip() or result.stderr.strip()}")
        expect(result.returncode == 0, f"the health check of {self.name} fails")

    def stop(self) -> None:
        """Send SIGTERM to the server, as a container engine does, and check that it ends with status 0."""
        assert self._server is not None  # noqa: S101
        # buildah itself answers a signal by killing what it runs.
        os.kill(innermost(self._server.pid), signal.SIGTERM)
        status = self._server.wait(SECONDS)
        say(f"{self.name}: ends with {status} after SIGTERM")
        expect(status == 0, f"{self.name} does not end in good order")

    def _line(self, command: tuple[str, ...] | list[str], *, writable: bool) -> list[str]:
        mode = "rw" if writable else "ro"
        mounts = [f"--volume={self._volumes / kind}:/{kind}:{mode}" for kind in ("keys", "models")]
        variables = [f"--env={name}={value}" for name, value in self._variables.items()]
        return ["buildah", "run", *mounts, *variables, self.name, "--", *command]


def main() -> int:
    """Run both servers, ask, stop them; 0 if all went as it should."""
    with tempfile.TemporaryDirectory() as directory:
        volumes = Path(directory)
        for kind in ("keys", "models"):
            (volumes / kind).mkdir()
            os.chown(volumes / kind, USER, USER)
        # The image's user passes through.
        volumes.chmod(0o711)
        refuse_without_key(volumes)
        redis_port, postgres_port = free_ports(2)
        with (
            running_redis(redis_port) as redis,
            running_postgres(postgres_port) as postgres,
            receiving_traces() as (receiver, senders),
        ):
            serve_and_ask(
                volumes, {"LODESTREAM_LIMITS_URL": redis, "LODESTREAM_RECEIPTS_URL": postgres}, receiver
            )
            expect(redis_ran_scripts(redis_port), "no quota was counted in Redis")
        expect(len(senders) == 2, f"traces came only from {senders}")
    return 0


def serve_and_ask(volumes: Path, stores: dict[str, str], receiver: str) -> None:
    """Run both images, ask, look for the receipt in its database, and stop both.

    Args:
        volumes: directory of what is mounted.
        stores: settings of the service that name its stores.
        receiver: URL of the receiver of traces.

    """
    service, bridge = (f"127.0.0.1:{port}" for port in free_ports(2))
    # The small model: what is tried is the image.
    model = {"LODESTREAM_MODEL": MODEL, "LODESTREAM_ALIAS": f"llama-3.1-8b={MODEL}"}
    both = {"LODESTREAM_GRPC_ADDRESS": service, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver}
    with (
        Container("lodestream-cpu", volumes, {**both, **model, **stores}) as cpu,
        Container("lodestream-bridge", volumes, {**both, "LODESTREAM_HTTP_ADDRESS": bridge}) as front,
    ):
        key = prepare(cpu, volumes)
        cpu.start()
        front.start()
        ask = [sys.executable, str(Path(__file__).with_name("ask.py")), bridge]
        subprocess.run(ask, input=key, text=True, check=True, timeout=5 * SECONDS)  # noqa: S603
        for container in (cpu, front):
            container.check_health()
        for container in (front, cpu):
            container.stop()
        usage = cpu.run("lodestream", "usage", "--format", "json")
        expect(usage.returncode == 0 and '"try"' in usage.stdout, f"no receipt: {usage.stdout}{usage.stderr}")
        say("quotas, receipts and traces went to Redis, PostgreSQL and the receiver")


def refuse_without_key(volumes: Path) -> None:
    """See that, as long as there is no key, neither image listens beyond this machine."""
    for image in ("lodestream-cpu", "lodestream-bridge"):
        with Container(image, volumes, {}) as container:
            result = container.run(*container.config["Entrypoint"], *container.config["Cmd"])
            refused = result.returncode == 1 and "create a key first" in result.stderr
            expect(refused, f"{image} without a key: status {result.returncode}: {result.stderr}")
    say("without a key both images refuse to listen")


def prepare(cpu: Container, volumes: Path) -> str:
    """Make a key, and put the model into its volume; the key."""
    made = cpu.run("lodestream", "keys", "create", "--name", "try", writable=True)
    expect(made.returncode == 0, made.stderr)
    if (CACHE / MODEL_FILE).is_file():
        shutil.copy(CACHE / MODEL_FILE, volumes / "models")
    else:
        fetched = cpu.run("lodestream", "model", "fetch", MODEL, writable=True)
        expect(fetched.returncode == 0, fetched.stderr)
    return made.stdout


def buildah(*arguments: str) -> str:
    """Run a command of buildah; what it prints."""
    line = ["buildah", *arguments]
    return subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603


def innermost(pid: int) -> int:
    """The last of a chain of processes, each the only child of the one before."""
    line = ["pgrep", "--parent", str(pid)]
    children = subprocess.run(line, stdout=subprocess.PIPE, check=False).stdout.split()  # noqa: S603
    return innermost(int(children[0])) if children else pid


def free_ports(count: int) -> list[int]:
    """Free ports of the loopback interface."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def expect(holds: bool, otherwise: str) -> None:
    """End in failure where something does not hold."""
    if not holds:
        raise SystemExit(f"images: {otherwise}")


def say(text: str) -> None:
    """Tell the person who waits."""
    print(f"images: {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
