"""Detection of the machine: GPUs, driver, versions."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engines.facts.gpus import MIB
from engines.facts.machine import InstalledGpu, probe

DOUBLE = Path(__file__).parents[2] / "double"
TWO_GPUS = "NVIDIA L4, 8.9, 23034, 22500, 580.95.05\nNVIDIA RTX A6000, 8.6, 49140, 100, 580.95.05"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a machine without a GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("CUDA_VERSION", "CUDA_HOME", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{DOUBLE / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DOUBLE_GPUS", TWO_GPUS)


def test_gpus_and_driver_are_those_of_nvidia_smi(nvidia_smi: None) -> None:
    found = probe({})

    assert found.gpus == (
        InstalledGpu("NVIDIA L4", 89, 23034 * MIB, 22500 * MIB),
        InstalledGpu("NVIDIA RTX A6000", 86, 49140 * MIB, 100 * MIB),
    )
    assert found.driver == "580.95.05"


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_do_not_count(nvidia_smi: None, hidden: str) -> None:
    assert probe({"CUDA_VISIBLE_DEVICES": hidden}).gpus == ()


@pytest.mark.parametrize("output", ["No devices were found", "NVIDIA L4, [N/A], 1, 1, 1", ""])
def test_unknown_output_of_nvidia_smi_means_no_gpu(
    nvidia_smi: None, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.setenv("DOUBLE_GPUS", output or "\n")

    assert probe({}).gpus == ()


def test_the_version_is_that_of_the_installed_library(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests may have imported the double.
    path = [place for place in sys.path if place != str(DOUBLE)]
    monkeypatch.delitem(sys.modules, "tensorrt_llm", raising=False)

    monkeypatch.setattr(sys, "path", path)
    assert probe({}).tensorrt_llm is None
    monkeypatch.setattr(sys, "path", [str(DOUBLE), *path])
    assert probe({}).tensorrt_llm == "1.2.1"
    assert "tensorrt_llm" not in sys.modules


def test_the_cuda_version_is_in_a_variable_or_beside_the_toolkit(tmp_path: Path) -> None:
    (tmp_path / "version.json").write_text('{"cuda": {"name": "CUDA SDK", "version": "13.1.0"}}')

    assert probe({"CUDA_VERSION": "13.0.2"}).cuda == "13.0.2"
    assert probe({"CUDA_HOME": str(tmp_path)}).cuda == "13.1.0"
    assert probe({"CUDA_HOME": str(tmp_path / "nothing")}).cuda is None
