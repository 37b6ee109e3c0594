"""`lodestream engine verify`, `inspect` and `adopt`, and what they find of the machine."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from engines.engine_files import MANIFEST_FILE
from engines.manifest import read_manifest
from engines.runtime import InstalledGpu, probe
from engines.units import MIB
from lodestream.cli import main
from tests.engines.engine_dirs import write_engine, write_model, write_plain, write_tokenizer

DOUBLE = Path(__file__).parent.parent / "double"
TWO_GPUS = "NVIDIA L4, 8.9, 23034, 22500, 580.95.05\nNVIDIA RTX A6000, 8.6, 49140, 100, 580.95.05"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever machine this is, it has none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("CUDA_VERSION", "CUDA_HOME", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)


class TestVerify:
    def test_a_whole_engine_ends_with_0(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["engine", "verify", str(write_engine(tmp_path / "engine"))]) == 0

        lines = capsys.readouterr().out.splitlines()
        assert lines
        assert all(line.startswith("unchecked: ") for line in lines)

    def test_a_damaged_one_ends_with_1_and_a_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        engine = write_engine(tmp_path / "engine")
        (engine / "rank0.engine").unlink()

        assert main(["engine", "verify", str(engine)]) == 1
        first = capsys.readouterr().out.splitlines()[0]
        assert first == "rank0.engine: is missing; it must be the engine's plan"

    def test_everything_that_is_wrong_is_a_line_of_its_own(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Also where a command cannot go on: below the message."""
        engine = write_engine(tmp_path / "engine")
        document = json.loads((engine / "config.json").read_text())
        document |= {"version": None, "pretrained_config": {}}
        (engine / "config.json").write_text(json.dumps(document))

        assert main(["engine", "verify", str(engine)]) == 1
        verified = [line for line in capsys.readouterr().out.splitlines() if "is missing" in line]
        assert main(["engine", "inspect", str(engine)]) == 1
        said = capsys.readouterr().err.splitlines()

        assert said[0] == f"lodestream: {engine}: config.json is not that of an engine"
        assert "  - version: is missing; it must be the TensorRT-LLM version, a string" in said
        assert len(said) - 1 == len(verified) > 5

    def test_a_plain_one_ends_with_0(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["engine", "verify", str(write_plain(tmp_path / "engine"))]) == 0
        assert "unchecked: files: found no manifest" in capsys.readouterr().out

    def test_json_has_the_same_findings(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        engine = write_engine(tmp_path / "engine")
        (engine / "config.json").write_text("{")

        assert main(["engine", "verify", str(engine), "--json"]) == 1
        findings = json.loads(capsys.readouterr().out)
        assert findings[0].keys() == {"field", "found", "wanted", "severity"}
        assert findings[0]["field"] == "config.json"

    def test_wrong_arguments_end_with_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["engine", "verify"]) == 2
        assert main(["engine", "verify", "x", "--fast"]) == 2
        assert capsys.readouterr().out == ""


class TestInspect:
    def test_it_tells_what_the_engine_is(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["engine", "inspect", str(write_engine(tmp_path / "engine"))]) == 0

        rows = {line.strip() for line in capsys.readouterr().out.splitlines()}
        for row in ("TensorRT-LLM       1.2.1", "weights            FP8", "tokens a request   2048"):
            assert row in rows

    def test_a_plain_engine_says_what_is_unknown(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["engine", "inspect", str(write_plain(tmp_path / "engine"))]) == 0

        text = capsys.readouterr().out
        assert "GPU, versions, checkpoint and hashes are unknown" in text
        assert "no readable tokenizer" in text

    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["engine", "inspect", str(write_engine(tmp_path / "engine")), "--json"]) == 0

        told = json.loads(capsys.readouterr().out)
        assert told["config"]["limits"]["max_seq_len"] == 2048
        assert told["manifest"]["model_id"] == "tiny"

    def test_what_is_no_engine_is_an_error_in_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["engine", "inspect", str(write_model(tmp_path / "model"))]) == 1
        assert "config.json: found that of a Hugging Face model" in capsys.readouterr().err


class TestAdopt:
    def test_a_plain_engine_gets_manifest_and_tokenizer(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        engine, model = write_plain(tmp_path / "engine"), write_model(tmp_path / "Tiny-1B")

        assert main(["engine", "adopt", str(engine), "--checkpoint", str(model), "--revision", "abc"]) == 0

        manifest = read_manifest(engine)
        assert manifest is not None
        assert (manifest.origin, manifest.model_id) == ("adopted", "Tiny-1B")
        assert manifest.source.revision == "abc"
        assert {"tokenizer.json", "generation_config.json"} <= manifest.files.keys()
        assert main(["engine", "verify", str(engine)]) == 0
        # The checkpoint's own config.json is not copied over the engine's.
        assert "pretrained_config" in json.loads((engine / "config.json").read_text())

    def test_a_manifest_is_not_written_over(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        engine = write_engine(tmp_path / "engine")
        before = (engine / MANIFEST_FILE).read_bytes()

        assert main(["engine", "adopt", str(engine)]) == 1
        assert "has a manifest.json already" in capsys.readouterr().err
        assert (engine / MANIFEST_FILE).read_bytes() == before

    def test_a_damaged_engine_gets_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        engine = write_plain(tmp_path / "engine")
        (engine / "rank0.engine").write_bytes(b"")

        assert main(["engine", "adopt", str(engine)]) == 1
        assert "rank0.engine: found 0 bytes" in capsys.readouterr().err
        assert not (engine / MANIFEST_FILE).exists()

    def test_a_checkpoint_of_another_model_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        engine, model = write_plain(tmp_path / "engine"), write_tokenizer(tmp_path / "model")
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        tokenizer["added_tokens"] += [{"id": 5000, "content": "<|foreign|>"}]
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))

        assert main(["engine", "adopt", str(engine), "--checkpoint", str(model)]) == 1
        assert "tokenizer.json: found 5001 tokens" in capsys.readouterr().err
        assert not (engine / MANIFEST_FILE).exists()
        assert not (engine / "tokenizer.json").exists()


class TestProbe:
    @pytest.fixture
    def nvidia_smi(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{DOUBLE / 'bin'}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("DOUBLE_GPUS", TWO_GPUS)

    def test_gpus_and_driver_are_those_of_nvidia_smi(self, nvidia_smi: None) -> None:
        found = probe({})

        assert found.gpus == (
            InstalledGpu("NVIDIA L4", 89, 23034 * MIB, 22500 * MIB),
            InstalledGpu("NVIDIA RTX A6000", 86, 49140 * MIB, 100 * MIB),
        )
        assert found.driver == "580.95.05"

    @pytest.mark.parametrize("hidden", ["", "-1"])
    def test_hidden_gpus_do_not_count(self, nvidia_smi: None, hidden: str) -> None:
        assert probe({"CUDA_VISIBLE_DEVICES": hidden}).gpus == ()

    @pytest.mark.parametrize("output", ["No devices were found", "NVIDIA L4, [N/A], 1, 1, 1", ""])
    def test_output_that_nobody_understands_is_no_gpu(
        self, nvidia_smi: None, monkeypatch: pytest.MonkeyPatch, output: str
    ) -> None:
        monkeypatch.setenv("DOUBLE_GPUS", output or "\n")

        assert probe({}).gpus == ()

    def test_the_version_is_that_of_the_installed_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Tests of other rooms may have put the double on the path, and imported it.
        path = [place for place in sys.path if place != str(DOUBLE)]
        monkeypatch.delitem(sys.modules, "tensorrt_llm", raising=False)

        monkeypatch.setattr(sys, "path", path)
        assert probe({}).tensorrt_llm is None
        monkeypatch.setattr(sys, "path", [str(DOUBLE), *path])
        assert probe({}).tensorrt_llm == "1.2.1"
        assert "tensorrt_llm" not in sys.modules

    def test_the_cuda_version_is_in_a_variable_or_beside_the_toolkit(self, tmp_path: Path) -> None:
        (tmp_path / "version.json").write_text('{"cuda": {"name": "CUDA SDK", "version": "13.1.0"}}')

        assert probe({"CUDA_VERSION": "13.0.2"}).cuda == "13.0.2"
        assert probe({"CUDA_HOME": str(tmp_path)}).cuda == "13.1.0"
        assert probe({"CUDA_HOME": str(tmp_path / "nothing")}).cuda is None
