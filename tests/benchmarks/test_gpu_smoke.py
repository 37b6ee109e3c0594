"""`make gpu-smoke` on the double: every step runs, and differences of the library are reported."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_smoke import assumptions
from benchmarks.gpu_smoke.differences import compare
from benchmarks.gpu_smoke.expected import ANSWERS, unexpected
from benchmarks.gpu_smoke.report import Steps, report
from benchmarks.gpu_smoke.surface import MARK
from benchmarks.gpu_smoke.transports import NAMES

ROOT = Path(__file__).parent.parent.parent
DOUBLE = ROOT / "tests" / "double"

Completed = subprocess.CompletedProcess[str]


def run_command(*command: str, double: Path | None = DOUBLE, seconds: float = 600) -> Completed:
    """Run a program with the double as TensorRT-LLM and a simulated GPU; with neither if `double` is None."""
    programs = [str(Path(sys.executable).parent), "/usr/bin", "/bin"]
    hidden = {"CUDA_VISIBLE_DEVICES", "PYTHONPATH"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    if double is not None:
        programs.insert(0, str(double / "bin"))
        kept["PYTHONPATH"] = str(double)
    environment = {**kept, "PATH": os.pathsep.join(programs)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )


def smoke(*flags: str, double: Path | None = DOUBLE) -> Completed:
    return run_command(sys.executable, "-m", "benchmarks.gpu_smoke", *flags, double=double)


def surface(double: Path) -> dict[str, Any]:
    done = run_command(sys.executable, "-m", "benchmarks.gpu_smoke.surface", double=double)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.partition(MARK)[2])
    return found


def in_json(text: str) -> dict[str, Any]:
    """The document at the end of a report."""
    found: dict[str, Any] = json.loads(text.rpartition("~~~~json\n")[2].removesuffix("\n~~~~\n"))
    return found


@pytest.fixture
def other_double(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """Copies the double and changes a text in one of its files."""
    copy = tmp_path / "double"
    shutil.copytree(DOUBLE, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def change(file: str, before: str, after: str) -> Path:
        path = copy / "tensorrt_llm" / file
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))
        return copy

    return change


def differences(double: Path) -> set[tuple[str, str, str]]:
    """Kind, part and name of every difference between the library and what our code expects."""
    found = compare(surface(double), surface(DOUBLE), assumptions.relied_on(), assumptions.listed())
    return {(difference.kind, difference.part, difference.name) for difference in found}


NOT_SIMULATED = {
    ("listed", "TrtLlmArgs", "embedding_parallel_mode"),
    ("listed", "TrtLlmArgs", "pipeline_parallel_size"),
}
"""Arguments that the double always refuses."""


@pytest.mark.timeout(700)
def test_all_steps_run_and_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "report.md"

    done = smoke(
        *("--report", str(file), "--streams", "1", "3", "--tokens", "8"),
        *("--examples", str(DOUBLE / "examples")),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"gpu-smoke: all went well; please send {file}\n"
    results = in_json(file.read_text())["results"]
    assert {s["status"] for s in in_json(file.read_text())["steps"]} == {"ok"}
    assert results["machine"]["gpus"][0]["name"] == "NVIDIA L4"
    assert results["behaviour"]["answers"] == ANSWERS
    assert list(results["transports"]) == NAMES
    assert all(outcome.startswith("ok") for outcome in results["transports"].values())
    assert re.match(r"\d\d passed, \d skipped, 3 deselected", results["contract suite"][-1])
    assert results["dead worker"] == {"workers": 0}
    assert [(row["transport"], row["streams"]) for row in results["benchmark"]] == [
        ("grpc", 1),
        ("rest", 1),
        ("grpc", 3),
        ("rest", 3),
    ]
    assert all(row["tokens_per_second"] > 0 < row["ttft_median_ms"] for row in results["benchmark"])
    assert {(d["kind"], d["part"], d["name"]) for d in results["differences"]} == NOT_SIMULATED


@pytest.mark.timeout(300)
def test_a_failed_step_does_not_stop_the_others(tmp_path: Path) -> None:
    """With an invalid engine the steps that need one fail with a reason, and the others are reported."""
    file, engine = tmp_path / "report.md", tmp_path / "engine"
    engine.mkdir()

    done = smoke("--report", str(file), "--engine", str(engine))

    assert done.returncode == 1
    assert done.stdout.startswith("gpu-smoke: failed: behaviour, transports, contract suite, benchmark;")
    text = file.read_text()
    assert "### transports: failed" in text
    assert "holds no engine that can be served" in text
    assert in_json(text)["results"]["surface"]["version"] == "1.2.1"


def test_a_machine_without_a_gpu_gets_a_message_of_one_line() -> None:
    done = smoke(double=None)

    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith("gpu-smoke: this machine has no GPU and no TensorRT-LLM; ")
    assert done.stdout.count("\n") == 1


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_looks_for_a_gpu_before_it_installs_anything() -> None:
    done = run_command("make", "--no-print-directory", "gpu-smoke", "PYTHON=" + sys.executable, double=None)

    assert done.returncode == 2
    assert done.stdout.startswith("gpu-smoke: this machine has no GPU")
    assert not (ROOT / ".venv-gpu").exists()


def test_a_missing_field_is_reported(
    other_double: Callable[[str, str, str], Path],
) -> None:
    double = other_double("sampling_params.py", "    min_p: float | None = None\n", "")

    assert differences(double) == NOT_SIMULATED | {
        ("missing", "SamplingParams", "min_p"),
        ("double-only", "SamplingParams", "min_p"),
    }


@pytest.mark.parametrize(
    ("file", "before", "after", "expected"),
    [
        (
            "sampling_params.py",
            "max_tokens: int | None = 32",
            "max_tokens: int | None = 16",
            {("default", "SamplingParams", "max_tokens")},
        ),
        (
            "llm.py",
            "cache_salt: str | None = None,",
            "cache_salt: str | None = None, priority: float = 0.5,",
            {("library-only", "LLM.generate_async", "priority")},
        ),
        (
            "llm.py",
            "streaming: bool",
            "stream: bool",
            {
                ("missing", "LLM.generate_async", "streaming"),
                ("double-only", "LLM.generate_async", "streaming"),
                ("library-only", "LLM.generate_async", "stream"),
            },
        ),
        (
            "configs.py",
            "    use_uvm: bool = False\n",
            "",
            {("listed", "KvCacheConfig", "use_uvm"), ("double-only", "KvCacheConfig", "use_uvm")},
        ),
        (
            "executor/result.py",
            "    stop_reason: int | str | None = None\n",
            "",
            {
                ("missing", "CompletionOutput", "stop_reason"),
                ("double-only", "CompletionOutput", "stop_reason"),
            },
        ),
        (
            "executor/utils.py",
            "class RequestError(",
            "class RequestFailed(",
            {("place", "RequestError", "")},
        ),
    ],
)
def test_a_difference_of_the_library_is_reported(
    other_double: Callable[[str, str, str], Path],
    file: str,
    before: str,
    after: str,
    expected: set[tuple[str, str, str]],
) -> None:
    double = other_double(file, before, after)
    if "RequestError" in before:
        for user in ("executor/__init__.py", "executor/result.py", "llmapi/__init__.py"):
            other_double(user, "RequestError", "RequestFailed")

    assert differences(double) == NOT_SIMULATED | expected


def test_different_behaviour_is_reported() -> None:
    answers = {**ANSWERS, "end_id_is_shown": True, "new_question": 1}
    del answers["empty_prompt"]

    assert unexpected(answers) == {
        "end_id_is_shown": (True, False),
        "new_question": (1, None),
        "empty_prompt": ("not asked", "IndexError"),
    }


def test_failed_step_is_reported_with_its_traceback_and_the_next_one_runs() -> None:
    steps = Steps()

    def server_that_does_not_start() -> None:
        raise SystemExit("a server did not become ready")

    assert steps.run("first", server_that_does_not_start) is None
    assert steps.run("second", lambda: 2) == 2

    assert [step.status for step in steps.done] == ["failed", "ok"]
    text = report(steps)
    assert "### first: failed" in text
    assert "SystemExit: a server did not become ready" in text
    assert in_json(text)["steps"][1]["name"] == "second"
