"""`lodestream engine plan`, in a new process and in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines.planning.document import from_json
from engines.planning.plan import plan
from lodestream.cli import main
from tests.engines.checkpoints import LLAMA, modelopt, write

GOLDEN = Path(__file__).parent / "golden"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `lodestream engine plan ...` as a process, 80 columns wide."""
    return subprocess.run(
        [sys.executable, "-m", "lodestream.cli", "engine", "plan", *arguments],
        env={**os.environ, "COLUMNS": "80", "PYTHONUTF8": "1", **variables},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("gpu", ["h200", "l4", "a10", "b200"])
def test_the_report_is_the_golden_one(gpu: str) -> None:
    """The file is `COLUMNS=80 lodestream engine plan --gpu GPU`, and may change only on purpose."""
    done = run("--gpu", gpu)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (GOLDEN / f"{gpu}.txt").read_text(encoding="utf-8")


def test_json_contains_the_whole_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """The document gives the same plan again."""
    flags = ["--quantization", "int8-wo", "--target-tokens-per-second", "9000"]
    flags += ["--kv-cache", "int8", "--no-paged-context", "--max-batch-size", "32", "--max-seq-len", "4096"]
    more = [
        "--max-num-tokens",
        "2048",
        "--memory-fraction",
        "0.8",
        "--input-len",
        "900",
        "--output-len",
        "100",
    ]

    assert main(["engine", "plan", "--gpu", "a10", "--json", *flags, *more]) == 0
    assert from_json(capsys.readouterr().out) == plan(
        "llama-3.1-8b",
        "a10",
        "int8-wo",
        kv_cache="int8",
        target_tokens_per_second=9000,
        paged_context=False,
        max_batch_size=32,
        max_seq_len=4096,
        max_num_tokens=2048,
        memory_fraction=0.8,
        lengths=[(900, 100)],
    )


def test_a_checkpoint_and_an_output_are_put_into_the_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands have the given directories and the checkpoint's quantisation."""
    model = str(write(tmp_path / "Llama-FP8", LLAMA, hf_quant_config=modelopt("FP8", "FP8")))

    assert main(["engine", "plan", "--gpu", "h100", "--model", model, "--output", "/e", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"]["name"] == "Llama-FP8"
    assert f"model={model!r}" in document["routes"][0]["program"]
    assert "llm.save('/e')" in document["routes"][0]["program"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--gpu h10", "--gpu h10: unknown GPU; did you mean h100?"),
        ("--gpu a10 --quantization fp8", "--quantization fp8: not possible on A10 (SM 86): FP8 needs SM 89"),
        ("--gpu b200 --quantization int4-awq", "--quantization int4-awq: not possible on B200 SXM (SM 100)"),
        ("--gpu h100 --tp 3", "--tp 3: does not divide the 8 KV heads"),
        ("--gpu a10 --kv-cache int8", "--kv-cache int8: the builder switches paged-context attention off"),
        ("--gpu h100 --max-seq-len 200000", "--max-seq-len 200000: is more than the model's"),
        ("--gpu h100 --input-len 8000 --output-len 8000", "--input-len + --output-len 8000 + 8000: is more"),
        ("--gpu h100 --input-len 8000", "--input-len and --output-len: give both, or neither"),
        ("--gpu h100 --tp two", "--tp: 'two' is not a whole number above 0"),
        (
            "--gpu a10 --kv-cache int8 --no-paged-context",
            "--kv-cache int8: quantize.py of TensorRT-LLM 1.2.1",
        ),
        ("--gpu h100 --target-tokens-per-second 0", "--target-tokens-per-second: '0' is not a whole number"),
        ("--gpu h100 --max-batch-size 0", "--max-batch-size: '0' is not a whole number above 0"),
        ("--gpu h100 --memory-fraction 1.5", "--memory-fraction: '1.5' is not a number above 0, at most 1"),
        ("--gpu h100 --memory-fraction much", "--memory-fraction: 'much' is not a number"),
        ("--gpu h100 --model nowhere", "--model nowhere: no such directory"),
        ("--gpu h100 --quantisation fp8", "--quantisation: unknown flag; did you mean --quantization?"),
        ("", "--gpu"),
    ],
)
def test_a_refusal_is_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The flag, the value, the reason; exit status 2 and nothing on stdout, with --json too."""
    for more in ([], ["--json"]):
        assert main(["engine", "plan", *arguments.split(), *more]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("lodestream: ")
        assert output.err.count("\n") == 1
        assert message in output.err


def test_an_error_of_a_checkpoint_names_the_key_and_no_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No flag is wrong, so none is named."""
    model = str(write(tmp_path, {**LLAMA, "architectures": ["GPT2LMHeadModel"]}))

    assert main(["engine", "plan", "--gpu", "h100", "--model", model]) == 2
    assert capsys.readouterr().err.startswith("lodestream: config.json: architectures GPT2LMHeadModel: only")


def test_an_unverified_format_is_printed_as_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """The plan is valid and has the warning."""
    assert main(["engine", "plan", "--gpu", "rtx-pro-6000"]) == 0
    assert "\nWarning: unverified: fp8 weights on SM 120: " in capsys.readouterr().out


def test_a_pipe_gets_no_colours_and_an_old_encoding_no_blocks() -> None:
    """Output to a pipe is plain text, and ASCII if the encoding supports no more."""
    done = run("--gpu", "l4", PYTHONUTF8="0", PYTHONIOENCODING="ascii", LC_ALL="C")

    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert "\n####" in done.stdout


def test_planning_loads_nothing_heavy() -> None:
    """It imports no engine, server or tensor library."""
    script = (
        "import sys; before = set(sys.modules); from engines.planning.plan import plan; "
        "from engines.planning import document, report; made = plan('llama-3.1-8b', 'h100'); "
        "document.to_json(made); report.report(made, report.Canvas()); "
        "roots = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names); "
        "print(*sorted(root for root in roots if not root.startswith('_')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    parts = {"annotated_types", "pydantic_core", "typing_extensions", "typing_inspection"}
    assert {"engines", "pydantic"} <= set(done.stdout.split()) <= {"engines", "pydantic"} | parts
