"""`lodestream up`, end to end: both servers as real processes on the simulated engine."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_client import Client, UnavailableError
from inference_service.models.loader import ModelFile, model_id
from lodestream_common.keys import KeyFile
from tests.support.certificates import Certificates
from tests.support.up import (
    FREE_PORTS,
    TIMEOUT_SECONDS,
    Start,
    Up,
    all_gone,
    body,
    kill,
    run_up,
    soon,
    starting,
    stream,
)


@pytest.fixture
def start(tmp_path: Path, model_file: ModelFile) -> Iterator[Start]:
    """Start `lodestream up` with flags; what is left at the end is killed."""
    with starting(tmp_path, model_file) as run:
        yield run


def test_both_servers_come_up_answer_and_end(start: Start, model_file: ModelFile) -> None:
    """The banner's addresses are served, its curl line works, and Ctrl-C ends all in order: status 0."""
    up = start(*FREE_PORTS).until_ready()

    model = model_id(model_file.path)
    assert f"model   {model} (also llama-3.1-8b)\n" in up.banner
    listed = httpx.get(f"{up.http}/v1/models", timeout=10).json()["data"]
    assert [(entry["id"], entry["root"]) for entry in listed] == [(model, model), ("llama-3.1-8b", model)]
    reply = httpx.post(f"{up.http}/v1/chat/completions", json=body("llama-3.1-8b"), timeout=TIMEOUT_SECONDS)
    assert reply.status_code == 200
    assert "open" in up.banner
    assert "loopback" in up.banner
    with grpc.insecure_channel(up.grpc) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
        assert check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
    assert httpx.get(f"{up.http}/health/ready", timeout=10).status_code == 200
    assert _paste(up.curl)["object"] == "chat.completion"

    children = up.children()
    assert set(children) == {"serve", "bridge"}
    assert up.end() == 0
    assert all_gone(children.values())
    ends = [line["server"] for line in up.logs if line["event"] in {"ending", "draining"}]
    assert ends == ["bridge", "service"]
    assert not any(line["level"] == "error" for line in up.logs)


def _paste(line: str, **variables: str) -> dict[str, Any]:
    """Run a line in a shell as a reader of the banner would, or do by hand what curl would do."""
    if shutil.which("curl"):
        command = line.replace("curl ", "curl -sS --noproxy '*' ", 1)
        done = subprocess.run(
            ["sh", "-c", command],
            env={**os.environ, **variables},
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
        return dict(json.loads(done.stdout))
    words = [re.sub(r"\$(\w+)", lambda name: variables[name[1]], word) for word in shlex.split(line)]
    headers = dict(word.split(": ", 1) for option, word in itertools.pairwise(words) if option == "-H")
    return dict(
        httpx.post(
            words[1], headers=headers, content=words[words.index("-d") + 1], timeout=TIMEOUT_SECONDS
        ).json()
    )


def test_with_keys_the_line_takes_one_from_the_shell(start: Start, tmp_path: Path) -> None:
    """With keys the curl line works with $KEY, and both transports refuse callers without a key."""
    _, token = KeyFile(tmp_path / "keys.json").create("alice")
    up = start(*FREE_PORTS, "--keys-file", str(tmp_path / "keys.json")).until_ready()

    assert '-H "Authorization: Bearer $KEY"' in up.curl
    assert _paste(up.curl, KEY=token)["object"] == "chat.completion"
    assert _paste(up.curl, KEY="pg_" + "a" * 40)["error"]["code"] == "invalid_api_key"
    assert up.end() == 0
    assert token not in up.err.read_text()


def test_with_certificates_both_servers_speak_tls(start: Start, tmp_path: Path) -> None:
    """With mTLS between them. The curl line trusts the authority."""
    made = Certificates(tmp_path)
    settings = {**made.issue(), "tls_client_ca": made.ca, **made.towards_service()}
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in settings.items()]
    up = start(*FREE_PORTS, *flags).until_ready()

    assert up.http.startswith("https://")
    assert f"--cacert {made.ca}" in up.curl
    context = ssl.create_default_context(cafile=made.ca)
    reply = httpx.post(
        f"{up.http}/v1/chat/completions", json=body("llama-3.1-8b"), timeout=TIMEOUT_SECONDS, verify=context
    )
    assert reply.status_code == 200
    with Client(up.grpc, tls=made.client(), retries=0) as client:
        assert client.list_models(timeout=10)
    with Client(up.grpc, retries=0) as client, pytest.raises(UnavailableError):
        client.list_models(timeout=10)
    assert up.end() == 0


def test_certificates_without_an_authority_for_the_bridge_are_refused(start: Start, tmp_path: Path) -> None:
    made = Certificates(tmp_path).issue()
    up = start(*FREE_PORTS, *(f"--{name.replace('_', '-')}={path}" for name, path in made.items()))

    assert up.process.wait(TIMEOUT_SECONDS) != 0
    assert "the bridge needs service_ca" in up.err.read_text()


def test_an_open_server_takes_the_api_pages_key_line(start: Start) -> None:
    """A caller that sends some key to open servers is answered."""
    up = start(*FREE_PORTS).until_ready()
    line = up.curl.replace(" \\\n", ' \\\n  -H "Authorization: Bearer pg_your_api_key" \\\n', 1)

    assert _paste(line)["object"] == "chat.completion"


def test_settings_reach_the_servers(start: Start, tmp_path: Path, model_file: ModelFile) -> None:
    """A file and variables of `up` count for its children, which see nothing else of them."""
    (tmp_path / "c.toml").write_text(f'region = "moon"\n[alias]\nllama = "{model_id(model_file.path)}"\n')
    variables = {"LODESTREAM_CONFIG": str(tmp_path / "c.toml"), "LODESTREAM_MAX_CONCURRENCY": "7"}
    up = start(*FREE_PORTS, variables=variables).until_ready()

    reply = httpx.post(
        f"{up.http}/v1/chat/completions", json=body("llama", max_tokens=1), timeout=TIMEOUT_SECONDS
    )
    assert reply.status_code == 200
    assert "(also llama)" in up.banner
    serve, bridge = up.children()["serve"], up.children()["bridge"]
    assert "--max-concurrency=7" in serve.cmdline()
    assert "--region=moon" in bridge.cmdline()
    assert f"--grpc-address={up.grpc}" in bridge.cmdline()


def test_ctrl_c_lets_running_requests_finish(start: Start) -> None:
    """A stream that runs when Ctrl-C is pressed ends as it should, and then all ends with status 0."""
    up = start(*FREE_PORTS, "--simulated-decode-tps=20").until_ready()

    with stream(up, max_tokens=40, ignore_eos=True) as lines:
        # As a terminal does it: the signal goes to the whole foreground group.
        os.killpg(up.process.pid, signal.SIGINT)
        rest = [line for line in lines if line]

    assert '"finish_reason":"length"' in rest[-2].replace(" ", "")
    assert rest[-1] == "data: [DONE]"
    assert up.process.wait(TIMEOUT_SECONDS) == 0


def test_a_second_ctrl_c_ends_it_at_once(start: Start) -> None:
    """It ends the grace period, and no process is left."""
    up = start(*FREE_PORTS, "--simulated-decode-tps=1", "--shutdown-grace=600").until_ready()
    children = up.children().values()

    with stream(up, max_tokens=500, ignore_eos=True):
        up.process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        assert up.process.poll() is None
        up.process.send_signal(signal.SIGINT)

        assert up.process.wait(30) == 130

    assert all_gone(children)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_fetch_of_a_background_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A shell starts background jobs with SIGINT ignored, but `up` handles it and stops pip."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            process = run_up(tmp_path, ("--cache-dir", str(tmp_path / "cache")), {})
            silent.settimeout(TIMEOUT_SECONDS)
            with silent.accept()[0]:
                process.send_signal(number)
                assert process.wait(TIMEOUT_SECONDS) == 130
    finally:
        signal.signal(signal.SIGINT, before)

    assert (tmp_path / "err").read_text().endswith("lodestream: interrupted\n")
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {".lock"}


def test_the_small_model_is_served_if_the_default_is_unavailable(
    tmp_path: Path, model_file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The banner says so."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / model_file.path.name).symlink_to(model_file.path)
    for variable in ("PIP_INDEX_URL", "HF_ENDPOINT"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1/simple")
    for variable in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    process = run_up(tmp_path, ("--threads=1", f"--cache-dir={cache}", *FREE_PORTS), {})
    try:
        up = Up(process, tmp_path / "out", tmp_path / "err").until_ready()
        banner = " ".join(up.banner.split())
        assert "model smollm2-135m-instruct (also llama-3.1-8b)" in banner
        assert "qwen2.5-coder-0.5b-instruct cannot be had: Cannot fetch hf://" in banner
        assert up.end() == 0
    finally:
        kill(process)


def test_sigterm_while_loading_ends_it_cleanly(start: Start) -> None:
    """A signal before the servers are ready leaves no process."""
    up = start(*FREE_PORTS)
    assert soon(lambda: up.process.poll() is not None or _has_children(up))
    children = up.children().values()

    up.process.send_signal(signal.SIGTERM)

    assert up.process.wait(TIMEOUT_SECONDS) == 0
    assert all_gone(children)


def _has_children(up: Up) -> bool:
    return bool(psutil.Process(up.process.pid).children())


@pytest.mark.parametrize(("victim", "name"), [("serve", "service"), ("bridge", "bridge")])
def test_when_a_server_dies_the_other_is_ended(start: Start, victim: str, name: str) -> None:
    """Exit status 1, one line that says which one died and how, and no process left."""
    up = start(*FREE_PORTS).until_ready()
    children = up.children()

    children[victim].kill()

    assert up.process.wait(TIMEOUT_SECONDS) == 1
    assert f"lodestream: the {name} was killed by SIGKILL" in up.err.read_text()
    assert all_gone(children.values())


def test_killing_up_ends_both_servers(start: Start) -> None:
    """kill -9 of `up` ends both servers."""
    up = start(*FREE_PORTS).until_ready()
    children = up.children().values()

    up.process.kill()

    assert soon(lambda: all_gone(children))


@pytest.mark.parametrize("setting", ["grpc_address", "http_address"])
def test_a_taken_port_is_an_error_of_one_line(start: Start, setting: str) -> None:
    """Before anything is fetched or started: which setting and address, why, and what to do; status 1."""
    flag = "--" + setting.replace("_", "-")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        up = start(*FREE_PORTS, f"{flag}={address}", "--model=/nowhere.gguf")

        assert up.process.wait(TIMEOUT_SECONDS) == 1

    errors = up.err.read_text()
    assert errors.startswith(
        f"lodestream: {setting}: cannot listen on {address}: another program listens there"
    )
    assert f"{flag} 127.0.0.1:0" in errors
    assert errors.count("\n") == 1


def test_a_taken_port_of_a_service_is_an_error_of_one_line(tmp_path: Path) -> None:
    """No line of the gRPC core's own, and none in between the error and the end; what precedes it is JSON."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "lodestream.cli", "serve", "--backend=simulated"]
        flags = [f"--grpc-address={address}", f"--keys-file={tmp_path / 'keys.json'}"]
        done = subprocess.run(
            [*command, *flags], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )

    *logged, empty, error = done.stderr.splitlines()
    assert done.returncode == 1
    assert [json.loads(line)["event"] for line in logged] == ["no_api_keys"]
    assert empty == ""
    assert error.startswith(f"lodestream: grpc_address: cannot listen on {address}: another program")


def test_an_open_server_beyond_loopback_is_refused_first(start: Start) -> None:
    """Before anything is fetched or started, up says that a key is missing."""
    up = start("--http-address=0.0.0.0:0", "--model=/nowhere.gguf")

    assert up.process.wait(TIMEOUT_SECONDS) == 1
    assert re.fullmatch(r"lodestream: http_address: [^\n]*lodestream keys create[^\n]*\n", up.err.read_text())


def test_a_missing_model_is_an_error_of_one_line(start: Start) -> None:
    """Nothing is started where there is nothing to serve."""
    up = start("--model=/nowhere.gguf")

    assert up.process.wait(TIMEOUT_SECONDS) == 1
    assert re.fullmatch(r"lodestream: [^\n]*/nowhere\.gguf[^\n]*\n", up.err.read_text())


def test_an_engine_that_does_not_start_is_reported_last(start: Start) -> None:
    """In the service's own words, in one line that stands clear of the JSON lines; status 1."""
    up = start(*FREE_PORTS, "--simulated-fault=crash_at_start")

    assert up.process.wait(TIMEOUT_SECONDS) == 1
    first, *logged, empty, error = up.err.read_text().splitlines()
    assert first.startswith("Starting ")
    assert all(json.loads(line) for line in logged)
    assert empty == ""
    assert error == (
        "lodestream: the service cannot serve: the simulated engine is configured to crash at start"
    )
