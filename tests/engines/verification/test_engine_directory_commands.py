"""`lodestream engine verify`, `inspect` and `adopt`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.facts.engine_directory import MANIFEST_FILE
from engines.manifest import read_manifest
from lodestream.cli import main
from tests.engines.engine_dirs import write_engine, write_model, write_plain, write_tokenizer


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a machine without a GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("CUDA_VERSION", "CUDA_HOME", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)


class TestVerify:
    def test_verifying_an_intact_engine_exits_with_0(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["engine", "verify", str(write_engine(tmp_path / "engine"))]) == 0

        lines = capsys.readouterr().out.splitlines()
        assert lines
        assert all(line.startswith("unchecked: ") for line in lines)

    def test_verifying_a_damaged_engine_exits_with_1_and_a_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        engine = write_engine(tmp_path / "engine")
        (engine / "rank0.engine").unlink()

        assert main(["engine", "verify", str(engine)]) == 1
        first = capsys.readouterr().out.splitlines()[0]
        assert first == "rank0.engine: is missing; it must be the engine's plan"

    def test_every_error_has_its_own_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """This holds also for commands that stop: the errors are below the message."""
        engine = write_engine(tmp_path / "engine")
        document = json.loads((engine / "config.json").read_text())
        document |= {"version": None, "pretrained_config": {}}
        (engine / "config.json").write_text(json.dumps(document))

        assert main(["engine", "verify", str(engine)]) == 1
        verified = [line for line in capsys.readouterr().out.splitlines() if "is missing" in line]
        assert main(["engine", "inspect", str(engine)]) == 1
        lines = capsys.readouterr().err.splitlines()

        assert lines[0] == f"lodestream: {engine}: config.json is not that of an engine"
        assert "  - version: is missing; it must be the TensorRT-LLM version, a string" in lines
        assert len(lines) - 1 == len(verified) > 5

    def test_verifying_an_engine_without_manifest_exits_with_0(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["engine", "verify", str(write_plain(tmp_path / "engine"))]) == 0
        assert "unchecked: files: found no manifest" in capsys.readouterr().out

    def test_json_has_the_same_findings(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        engine = write_engine(tmp_path / "engine")
        (engine / "config.json").write_text("{")

        assert main(["engine", "verify", str(engine), "--json"]) == 1
        findings = json.loads(capsys.readouterr().out)
        assert findings[0].keys() == {"field", "found", "expected", "severity"}
        assert findings[0]["field"] == "config.json"

    def test_wrong_arguments_exit_with_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["engine", "verify"]) == 2
        assert main(["engine", "verify", "x", "--fast"]) == 2
        assert capsys.readouterr().out == ""


class TestInspect:
    def test_it_describes_the_engine(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["engine", "inspect", str(write_engine(tmp_path / "engine"))]) == 0

        rows = {line.strip() for line in capsys.readouterr().out.splitlines()}
        for row in ("TensorRT-LLM       1.2.1", "weights            FP8", "tokens a request   2048"):
            assert row in rows

    def test_an_engine_without_manifest_has_unknown_values(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["engine", "inspect", str(write_plain(tmp_path / "engine"))]) == 0

        text = capsys.readouterr().out
        assert "GPU, versions, checkpoint and hashes are unknown" in text
        assert "no readable tokenizer" in text

    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["engine", "inspect", str(write_engine(tmp_path / "engine")), "--json"]) == 0

        document = json.loads(capsys.readouterr().out)
        assert document["config"]["limits"]["max_seq_len"] == 2048
        assert document["manifest"]["model_id"] == "tiny"

    def test_a_directory_without_engine_is_an_error_of_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["engine", "inspect", str(write_model(tmp_path / "model"))]) == 1
        assert "config.json: found that of a Hugging Face model" in capsys.readouterr().err


class TestAdopt:
    def test_adopting_adds_manifest_and_tokenizer(
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

    def test_an_existing_manifest_is_not_overwritten(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        engine = write_engine(tmp_path / "engine")
        before = (engine / MANIFEST_FILE).read_bytes()

        assert main(["engine", "adopt", str(engine)]) == 1
        assert "has a manifest.json already" in capsys.readouterr().err
        assert (engine / MANIFEST_FILE).read_bytes() == before

    def test_a_damaged_engine_is_not_adopted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
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
