"""`lodestream engine build` with the double: stages, resuming, failures, and results."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import jsonschema
import pytest

from engines.building.programs import Progress
from engines.building.stages import Done, State
from engines.facts import toolchain as tools
from engines.facts.engine_directory import facts_of
from engines.facts.toolchain import diagnose
from engines.manifest import Manifest, read_manifest, schema
from engines.verification.verify import has_errors, verify
from lodestream.cli import main
from tests.double.build_tools import FAULTS
from tests.engines.checkpoints import modelopt
from tests.engines.engine_dirs import L4, STOP_IDS, VOCABULARY, edit, machine, write_json, write_model

DOUBLE = Path(__file__).parents[2] / "double"
EXAMPLES = DOUBLE / "examples"
LIMITS = ("--max-seq-len", "2048", "--max-batch-size", "32", "--max-num-tokens", "4096")
TABLES = {"convert": tools.CONVERT, "quantize": tools.QUANTIZE, "build": tools.BUILD}

Done_ = subprocess.CompletedProcess[str]


def environment(**variables: str) -> dict[str, str]:
    """The environment in which the double's programs and modules come first."""
    programs = os.pathsep.join([str(DOUBLE / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    hidden = {"CUDA_VISIBLE_DEVICES", "CUDA_VERSION", "CUDA_HOME"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "PATH": programs, "PYTHONPATH": str(DOUBLE), **variables}


def in_a_process(arguments: Sequence[str], outside: dict[str, str]) -> Done_:
    command = [sys.executable, "-m", "lodestream.cli", *arguments]
    return subprocess.run(command, env=outside, capture_output=True, text=True, timeout=100, check=False)


def in_this_process(arguments: Sequence[str], outside: dict[str, str]) -> Done_:
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ, outside, clear=True), redirect_stdout(out), redirect_stderr(err):
        status = main(arguments)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


class Builder:
    """Runs builds of one checkpoint, and records which stages ran."""

    def __init__(self, root: Path) -> None:
        self.model = write_model(root / "model")
        self.output = root / "engine"
        self.work = root / "engine-build"
        self.log = root / "stages.log"

    def run(self, *flags: str, gpu: str = "l4", fault: str = "", **variables: str) -> Done_:
        """Build in this process, or in a new one if the build will be killed."""
        self.log.write_text("")
        arguments = ["engine", "build", "--gpu", gpu, *self.flags, *flags]
        outside = environment(DOUBLE_LOG=str(self.log), DOUBLE_FAULT=fault, **variables)
        return (in_a_process if "kill" in fault else in_this_process)(arguments, outside)

    @property
    def flags(self) -> tuple[str, ...]:
        paths = ("--model", str(self.model), "--output", str(self.output), "--examples", str(EXAMPLES))
        return (*paths, *LIMITS)

    @property
    def ran(self) -> list[str]:
        """The tools of TensorRT-LLM that the last run started, in order."""
        return self.log.read_text().split()

    @property
    def manifest(self) -> Manifest:
        manifest = read_manifest(self.output)
        assert manifest is not None
        return manifest


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def succeeded(done: Done_) -> None:
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=["trtllm-build", "llm-api"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Builder]:
    """A finished build by each route, which tests must not change."""
    builder = Builder(tmp_path_factory.mktemp(request.param))
    succeeded(builder.run("--route", request.param, "--model-id", "acme/tiny", "--revision", "abc"))
    return request.param, builder


class TestResult:
    def test_the_manifest_follows_its_schema(self, built: tuple[str, Builder]) -> None:
        document = json.loads((built[1].output / "manifest.json").read_text())

        jsonschema.validate(document, schema())

    def test_the_manifest_records_the_build(self, built: tuple[str, Builder]) -> None:
        route, builder = built
        manifest = builder.manifest

        assert manifest.build is not None
        assert manifest.gpu is not None
        assert (manifest.build.route, manifest.origin, manifest.model_id) == (route, "built", "acme/tiny")
        assert (manifest.source.checkpoint, manifest.source.revision) == ("model", "abc")
        assert (manifest.software.tensorrt_llm, manifest.software.driver) == ("1.2.1", "580.95.05")
        assert (manifest.gpu.name, manifest.gpu.sm) == ("NVIDIA L4", 89)
        assert manifest.quantization.quant_algo == "FP8"
        assert manifest.tokenizer is not None
        assert manifest.tokenizer.vocabulary_size == VOCABULARY
        assert list(manifest.tokenizer.stop_ids) == STOP_IDS
        assert manifest.build.seconds > 0

    def test_the_limits_of_the_manifest_are_those_of_the_built_config(
        self, built: tuple[str, Builder]
    ) -> None:
        config = json.loads((built[1].output / "config.json").read_text())["build_config"]
        limits = built[1].manifest.limits

        assert (limits.max_batch_size, limits.max_num_tokens, limits.max_seq_len) == (32, 4096, 2048)
        assert limits.max_input_len == config["max_input_len"]

    def test_the_manifest_lists_every_file(self, built: tuple[str, Builder]) -> None:
        there = {path.name for path in built[1].output.iterdir()} - {"manifest.json"}

        assert set(built[1].manifest.files) == there
        assert {"rank0.engine", "tokenizer.json", "generation_config.json", "chat_template.jinja"} <= there

    def test_golden_answers_continue_their_prompts(self, built: tuple[str, Builder]) -> None:
        golden = built[1].manifest.golden

        assert len(golden) == 4
        for sample in golden:
            assert 0 < len(sample.ids) <= 32
            # The double answers with a digest and then the prompt.
            assert sample.prompt_ids[0] in sample.ids

    def test_a_built_engine_passes_verification(self, built: tuple[str, Builder]) -> None:
        assert not has_errors(verify(built[1].output, runtime=machine(L4)))

    def test_a_built_engine_repeats_its_golden_answers(self, built: tuple[str, Builder]) -> None:
        done = verify_golden(built[1].output)

        assert (done.returncode, "golden" in done.stdout) == (0, False)

    def test_logs_and_timings_are_kept(self, built: tuple[str, Builder]) -> None:
        route, builder = built
        first = {"trtllm-build": "1-quantize.log", "llm-api": "1-save.log"}[route]

        assert (builder.work / first).is_file()
        assert (builder.work / "model.cache").is_file() == (route == "trtllm-build")


class TestFormats:
    """Formats that TensorRT-LLM 1.2.1 builds wrongly are refused, or built in the way that works."""

    def test_an_int8_kv_cache_is_calibrated_by_the_conversion(self, builder: Builder) -> None:
        flags = ("--quantization", "int8-wo", "--kv-cache", "int8", "--no-paged-context")

        succeeded(builder.run(*flags))

        assert builder.ran == ["convert", "build"]
        assert builder.manifest.quantization.kv_cache_quant_algo == "INT8"

    def test_an_int8_kv_cache_that_would_be_lost_is_refused(self, builder: Builder) -> None:
        done = builder.run("--kv-cache", "int8", "--no-paged-context")

        assert (done.returncode, builder.ran) == (2, [])
        assert "--kv-cache int8: quantize.py of TensorRT-LLM 1.2.1 loses it with fp8 weights" in done.stderr

    @pytest.mark.parametrize(
        ("method", "algo"),
        [("awq", "W4A16_GPTQ"), ("gptq", "W4A16_GPTQ"), ("fbgemm_fp8", "FP8_PER_CHANNEL_PER_TOKEN")],
    )
    def test_quantised_checkpoints_of_the_hub_are_converted(
        self, builder: Builder, method: str, algo: str
    ) -> None:
        """The result of an AWQ checkpoint is GPTQ, as expected."""
        quantised = {"quantization_config": {"quant_method": method}}
        edit(builder.model / "config.json", lambda config: config.update(quantised))

        succeeded(builder.run())

        assert builder.ran == ["convert", "build"]
        assert builder.manifest.quantization.quant_algo == algo

    def test_a_build_by_the_llm_api_warns_of_coarse_log_probabilities(
        self, built: tuple[str, Builder]
    ) -> None:
        """trtllm-build has an option for the type of the logits; the other route has none."""
        route, builder = built
        warned = [f.field for f in verify(builder.output) if f.severity == "warning"]

        assert ("pretrained_config.logits_dtype" in warned) == (route == "llm-api")


def verify_golden(engine: Path) -> Done_:
    return in_this_process(["engine", "verify", str(engine), "--golden"], environment())


class TestGolden:
    @pytest.fixture
    def engine(self, built: tuple[str, Builder], tmp_path: Path) -> Path:
        return Path(shutil.copytree(built[1].output, tmp_path / "engine"))

    def test_another_first_token_is_an_error(self, engine: Path) -> None:
        edit(engine / "manifest.json", lambda m: m["golden"][1]["ids"].__setitem__(0, 200))

        done = verify_golden(engine)

        assert done.returncode == 1
        assert re.search(r"^golden\[1\]\.ids: found \d[\d .]*, expected 200 ", done.stdout, re.MULTILINE)

    def test_another_last_token_is_a_warning(self, engine: Path) -> None:
        edit(engine / "manifest.json", lambda m: m["golden"][0]["ids"].__setitem__(-1, 200))

        done = verify_golden(engine)

        assert done.returncode == 0
        assert "warning: golden[0].ids: found " in done.stdout

    def test_the_reason_is_reported_if_an_engine_does_not_load(self, engine: Path) -> None:
        (engine / "rank0.engine").write_text('{"refuse_to_load": "CUDA out of memory"}')
        facts = facts_of(engine / "rank0.engine")
        edit(engine / "manifest.json", lambda m: m["files"].update({"rank0.engine": facts.model_dump()}))

        done = verify_golden(engine)

        assert done.returncode == 1
        assert "golden: found no answers: the GPU ran out of memory, expected" in done.stdout


class TestResume:
    def test_finished_stages_are_not_repeated(self, builder: Builder) -> None:
        failed = builder.run(fault="build:oom")
        assert (failed.returncode, builder.ran) == (1, ["quantize", "build"])
        assert not builder.output.exists()

        succeeded(builder.run())

        assert builder.ran == ["build"]

    @pytest.mark.parametrize(
        ("fault", "then"),
        [
            ("quantize:kill-early", ["quantize", "build"]),
            ("quantize:kill-late", ["quantize", "build"]),
            ("build:kill-early", ["build"]),
            ("build:kill-late", ["build"]),
        ],
    )
    def test_a_killed_build_is_resumed(self, builder: Builder, fault: str, then: list[str]) -> None:
        assert builder.run(fault=fault).returncode == -signal.SIGKILL
        assert not builder.output.exists()

        done = retry(builder.run)

        succeeded(done)
        assert builder.ran == then
        assert not has_errors(verify(builder.output))

    def test_a_build_killed_after_the_final_rename_is_complete(self, builder: Builder) -> None:
        """The build ends with a rename, after which nothing is recorded."""
        succeeded(builder.run())

        again = builder.run()

        succeeded(again)
        assert builder.ran == []
        assert "is built already" in again.stderr

    def test_another_limit_repeats_the_compilation_but_not_the_quantisation(self, builder: Builder) -> None:
        builder.run(fault="build:oom")

        succeeded(builder.run("--max-batch-size", "16"))

        assert builder.ran == ["build"]
        assert builder.manifest.limits.max_batch_size == 16

    def test_another_format_starts_a_new_build(self, builder: Builder) -> None:
        builder.run(fault="build:oom")

        succeeded(builder.run("--quantization", "int4-awq"))

        assert builder.ran == ["quantize", "build"]
        assert builder.manifest.quantization.quant_algo == "W4A16_AWQ"

    def test_a_changed_checkpoint_starts_a_new_build(self, builder: Builder) -> None:
        builder.run(fault="build:oom")
        edit(builder.model / "config.json", lambda config: config.update(rope_theta=10000.0))

        succeeded(builder.run())

        assert builder.ran == ["quantize", "build"]

    def test_a_lost_checkpoint_is_converted_again(self, builder: Builder) -> None:
        builder.run(fault="build:oom")
        (builder.work / "checkpoint/config.json").unlink()

        succeeded(builder.run())

        assert builder.ran == ["quantize", "build"]

    def test_timings_of_the_last_build_are_used(self, builder: Builder) -> None:
        succeeded(builder.run())
        builder.output.rename(builder.output.with_name("old"))

        succeeded(builder.run())

        assert "--input_timing_cache" in builder.run("--dry-run").stdout

    def test_a_damaged_state_starts_a_new_build(self, builder: Builder) -> None:
        builder.run(fault="build:oom")
        (builder.work / "state.json").write_text('{"version": 1, "stages": {"quantize"')

        succeeded(builder.run())

        assert builder.ran == ["quantize", "build"]


def retry(run: Callable[[], Done_]) -> Done_:
    """Repeat the run while a program of the killed build still runs."""
    give_up = time.monotonic() + 30
    while True:
        done = run()
        if "is in use by process" not in done.stderr or time.monotonic() > give_up:
            return done
        time.sleep(0.1)


class TestRefusals:
    def test_an_existing_output_is_not_changed(self, builder: Builder) -> None:
        builder.output.mkdir()
        (builder.output / "precious").write_text("x")

        done = builder.run()

        assert (done.returncode, builder.ran) == (1, [])
        assert f"{builder.output} is there already" in done.stderr
        assert (builder.output / "precious").read_text() == "x"

    def test_a_finished_engine_of_another_plan_is_not_changed(self, builder: Builder) -> None:
        succeeded(builder.run())
        before = (builder.output / "manifest.json").read_bytes()

        done = builder.run("--max-batch-size", "8")

        assert (done.returncode, builder.ran) == (1, [])
        assert (builder.output / "manifest.json").read_bytes() == before

    def test_another_engine_in_the_output_is_not_mistaken_for_the_build(self, builder: Builder) -> None:
        succeeded(builder.run())
        edit(builder.output / "manifest.json", lambda manifest: manifest.update(model_id="foreign"))

        done = builder.run()

        assert done.returncode == 1
        assert f"{builder.output} is there already" in done.stderr

    def test_a_foreign_work_directory_is_not_changed(self, builder: Builder) -> None:
        builder.work.mkdir()
        (builder.work / "precious").write_text("x")

        assert "holds something that is no build" in builder.run().stderr
        assert [path.name for path in builder.work.iterdir()] == ["precious"]

    @pytest.mark.parametrize(
        ("gpus", "reason"),
        [
            (
                "NVIDIA H100 80GB HBM3, 9.0, 81559, 81000, 580.95",
                "--gpu l4 is SM 89, but here is NVIDIA H100",
            ),
            (
                "NVIDIA L4, 8.9, 16000, 16000, 580.95",
                "--gpu l4 has 21.96 GiB, but here is NVIDIA L4 with 15.6",
            ),
        ],
    )
    def test_another_gpu_is_refused(self, builder: Builder, gpus: str, reason: str) -> None:
        done = builder.run(DOUBLE_GPUS=gpus)

        assert (done.returncode, builder.ran) == (1, [])
        assert reason in done.stderr

    def test_too_few_gpus_are_refused(self, builder: Builder) -> None:
        assert "--tp 2: this machine has 1 GPUs" in builder.run("--tp", "2").stderr

    def test_a_checkpoint_without_tokenizer_is_refused(self, builder: Builder) -> None:
        (builder.model / "tokenizer.json").unlink()

        done = builder.run()

        assert done.returncode == 1
        assert "give --tokenizer DIR" in done.stderr

    def test_a_route_that_the_plan_excludes_is_refused(self, builder: Builder) -> None:
        write_json(builder.model / "hf_quant_config.json", modelopt("FP8", "FP8"))

        assert "the route trtllm-build is closed" in builder.run("--route", "trtllm-build").stderr

    def test_only_one_build_at_a_time(self, builder: Builder) -> None:
        import fcntl

        builder.run(fault="quantize:oom")
        with (builder.work / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = builder.run()

        assert (done.returncode, builder.ran) == (1, [])
        assert "is in use by process" in done.stderr

    def test_a_model_name_without_a_checkpoint_is_refused(self, builder: Builder) -> None:
        done = builder.run("--model", "llama-3.1-8b")

        assert done.returncode == 2
        assert "hf download" in done.stderr

    def test_the_advice_for_a_missing_checkpoint_is_always_the_same(self, builder: Builder) -> None:
        """Every value that is no directory gets the same advice, which is also in the help."""
        advice = {builder.run("--model", model).stderr.partition("; ")[2] for model in ("nowhere", "a/B-8B")}
        bare = in_this_process(["engine", "build", "--gpu", "l4"], environment())
        advice.add(bare.stderr.partition("; ")[2])

        assert len(advice) == 1
        assert "fetch them first" in advice.pop()


class TestFailures:
    @pytest.mark.parametrize(
        ("fault", "why", "advice"),
        [
            ("rope-scaling", "rope_scaling of Llama 3.1 is not understood", "transformers==4.57.3"),
            ("old-rope-scaling", "rope_scaling of Llama 3.1 is not understood", "transformers==4.57.3"),
            ("transformers", "wrong version of transformers", "transformers==4.57.3"),
            ("oom", "the GPU ran out of memory", "--max-batch-size"),
            ("trt-oom", "the GPU ran out of memory", "--max-batch-size"),
            ("mpi", "MPI is missing", "libopenmpi-dev"),
            ("mpi4py", "MPI is missing", "libopenmpi-dev"),
            ("no-tensorrt-llm", "TensorRT-LLM is not installed", "tensorrt_llm==1.2.1"),
            ("libpython", "no shared library", "libpython"),
            ("no-gpu", "there is no GPU", "--gpus all"),
            ("driver", "the driver is too old", "a newer driver"),
            ("disk", "the disk is full", "--output"),
            ("dataset", "data set for calibration", "--calib-dataset"),
            ("column", "another column", "cnn_dailymail"),
            ("sm", "does not support this format", "--quantization"),
        ],
    )
    def test_a_known_failure_is_recognised(self, fault: str, why: str, advice: str) -> None:
        found = diagnose(f"[TensorRT-LLM] TensorRT-LLM version: 1.2.1\nTraceback:\n{FAULTS[fault]}\n", 1)

        assert why in found.why
        assert advice in found.advice

    def test_an_unknown_failure_is_reported_with_its_last_lines(self) -> None:
        assert diagnose(FAULTS["unknown"] + "\n\n", 1).why == "AssertionError: nobody has seen this before"

    def test_a_killed_program_is_reported_as_out_of_memory(self) -> None:
        assert "ran out of memory" in diagnose("", -signal.SIGKILL).why

    @pytest.mark.parametrize(
        ("fault", "why"),
        [("quantize:rope-scaling", "rope_scaling"), ("build:trt-oom", "the GPU ran out of memory")],
    )
    def test_the_error_has_the_stage_the_reason_and_advice(
        self, builder: Builder, fault: str, why: str
    ) -> None:
        done = builder.run(fault=fault)

        (line,) = [line for line in done.stderr.splitlines() if line.startswith("lodestream: ")]
        assert done.returncode == 1
        assert line.startswith(f"lodestream: stage {fault.partition(':')[0]} failed: ")
        assert why in line
        assert "Try: " in line
        assert ".log" in line

    def test_a_missing_script_is_named(self, builder: Builder, tmp_path: Path) -> None:
        assert "--examples DIR" in builder.run("--examples", str(tmp_path / "nothing")).stderr

    def test_a_missing_program_is_named(self, builder: Builder) -> None:
        done = builder.run(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))

        assert "stage build failed: trtllm-build cannot be started" in done.stderr

    def test_a_silent_change_of_the_format_is_an_error(self, builder: Builder) -> None:
        """The built config is compared with the plan."""
        builder.run(fault="build:oom")
        config = builder.work / "checkpoint/config.json"
        edit(config, lambda document: document["quantization"].update(kv_cache_quant_algo=None))

        done = builder.run()

        assert done.returncode == 1
        assert "kv_cache_quant_algo: is missing; it must be the plan's FP8" in done.stderr
        assert not builder.output.exists()


class TestDryRun:
    @pytest.mark.parametrize(
        "flags",
        [("--gpu", "l4"), ("--gpu", "a10"), ("--gpu", "b200"), ("--gpu", "h100", "--tp", "2")],
    )
    def test_the_tools_have_every_flag(self, builder: Builder, flags: tuple[str, ...]) -> None:
        document = json.loads(builder.run(*flags, "--dry-run", "--json").stdout)

        stages = {stage["stage"]: stage["argv"] for stage in document["stages"] if stage["stage"] in TABLES}
        assert "build" in stages
        for stage, argv in stages.items():
            words = [word for word in argv if word.startswith("--")]
            assert words
            assert set(words) <= TABLES[stage].keys()

    def test_a_dry_run_writes_nothing(self, builder: Builder) -> None:
        done = builder.run("--dry-run")

        assert (done.returncode, builder.ran) == (0, [])
        assert not builder.work.exists()
        assert not builder.output.exists()

    def test_a_dry_run_lists_every_stage(self, builder: Builder) -> None:
        text = builder.run("--dry-run").stdout

        heads = [line.split(":")[0] for line in text.splitlines() if line.startswith("[")]
        assert heads == [
            "[1/6] quantize",
            "[2/6] build",
            "[3/6] tokenizer",
            "[4/6] golden",
            "[5/6] manifest",
            "[6/6] verify",
        ]

    def test_a_dry_run_prints_the_program_of_the_llm_api_route(self, builder: Builder) -> None:
        text = builder.run("--dry-run", "--route", "llm-api").stdout

        compile(text[text.index('"""Builds') :], "build_engine.py", "exec")
        assert f"{builder.work / 'build_engine.py'}" in text


def test_a_quantised_checkpoint_is_built_by_the_llm_api(builder: Builder) -> None:
    write_json(builder.model / "hf_quant_config.json", modelopt("FP8", "FP8"))

    succeeded(builder.run())

    assert builder.manifest.build is not None
    assert builder.manifest.build.route == "llm-api"
    assert builder.manifest.quantization.quant_algo == "FP8"


def test_two_gpus_make_two_ranks(builder: Builder) -> None:
    gpus = "NVIDIA L4, 8.9, 23034, 22500, 580.95\nNVIDIA L4, 8.9, 23034, 22500, 580.95"

    succeeded(builder.run("--tp", "2", DOUBLE_GPUS=gpus))

    assert {"rank0.engine", "rank1.engine"} <= builder.manifest.files.keys()
    assert builder.manifest.mapping.world_size == 2


def test_sigterm_ends_the_running_tool(builder: Builder, tmp_path: Path) -> None:
    """The next run resumes the build."""
    slow = tmp_path / "bin"
    slow.mkdir()
    (slow / "trtllm-build").write_text("#!/bin/sh\necho $$ > pid\nexec sleep 60\n")
    (slow / "trtllm-build").chmod(0o755)
    variables = environment()
    variables["PATH"] = f"{slow}{os.pathsep}{variables['PATH']}"
    process = start(builder, variables)
    pid = int(wait_for(builder.work / "pid"))
    process.terminate()

    assert process.wait(30) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    succeeded(builder.run())
    assert builder.ran == ["build"]


def start(builder: Builder, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lodestream.cli", "engine", "build", "--gpu", "l4", *builder.flags]
    return subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def wait_for(path: Path) -> str:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        if path.exists() and path.read_text().strip():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def test_on_a_terminal_progress_is_one_changing_line() -> None:
    screen = Screen()
    progress = Progress(screen, 3)
    progress.begin(2, "build", None)
    progress.tick(61.0, "[TRT] timing kernels\x1b[31m")
    progress.tick(62.0, "x" * 500)
    progress.end(125.0)

    *lines, end = screen.getvalue().split("\r\x1b[2K")[1:]
    assert lines[0] == "[2/3] build  1:01  [TRT] timing kernels[31m"
    assert len(lines[1]) < 500
    assert end == "[2/3] build: done in 2:05\n"


def test_without_a_terminal_progress_is_a_line_a_minute() -> None:
    stream = io.StringIO()
    progress = Progress(stream, 3)
    progress.begin(1, "quantize", Path("q.log"))
    for seconds in range(0, 150, 5):
        progress.tick(float(seconds), "calibrating")
    progress.end(3700.0)

    assert stream.getvalue().splitlines() == [
        "[1/3] quantize: begins, log in q.log",
        "[1/3] quantize  1:00  calibrating",
        "[1/3] quantize  2:00  calibrating",
        "[1/3] quantize: done in 1:01:40",
    ]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_state_records_finished_stages(tmp_path: Path) -> None:
    state = State(tmp_path / "state.json")
    state.finish("build", Done(fingerprint="abc", seconds=1.5))

    again = State(tmp_path / "state.json")
    assert again.find("build", "abc") == Done(fingerprint="abc", seconds=1.5)
    assert again.find("build", "other") is None
    again.forget(["build"])
    assert State(tmp_path / "state.json").find("build", "abc") is None


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--checkpoint_dir", "x", "--gemm_plugins", "auto"), "unrecognized arguments: --gemm_plugins"),
        (("--kv_cache_type", "page"), "argument --kv_cache_type: invalid choice: 'page'"),
    ],
)
def test_the_double_accepts_no_flag_that_the_real_tool_lacks(flags: tuple[str, ...], reason: str) -> None:
    done = subprocess.run(
        [DOUBLE / "bin/trtllm-build", *flags],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert reason in done.stderr
