"""The GPU table: names are recognised in common spellings, and all values are plausible."""

from __future__ import annotations

import pytest

from engines.errors import PlanRefused
from engines.facts.gpus import GIB, GPUS, find_gpu


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("h100", "h100"),
        ("H100 SXM", "h100"),
        ("NVIDIA L4", "l4"),
        ("a100", "a100-80"),
        ("A100_80", "a100-80"),
        ("a100-40gb", "a100-40"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("4090", "rtx4090"),
        ("rtx-5090", "rtx5090"),
        ("NVIDIA RTX PRO 6000 Blackwell", "rtx-pro-6000"),
        ("b200", "b200"),
        ("GH200", "gh200"),
    ],
)
def test_a_gpu_is_found_in_common_spellings(written: str, name: str) -> None:
    """Case, spaces, dashes and the maker's name do not matter."""
    assert find_gpu(written).name == name


@pytest.mark.parametrize(("written", "near"), [("h10", "h100"), ("l40x", "l40"), ("rtx-4080", "rtx4090")])
def test_an_unknown_gpu_is_refused_with_the_nearest(written: str, near: str) -> None:
    """The error is one line with the nearest name and all names."""
    with pytest.raises(PlanRefused) as refused:
        find_gpu(written)

    assert (refused.value.field, refused.value.found) == ("gpu", written)
    assert f"did you mean {near}?" in refused.value.reason
    assert all(gpu.name in refused.value.reason for gpu in GPUS)
    assert "\n" not in str(refused.value)


def test_names_are_unique() -> None:
    """No two GPUs share a name or a title."""
    spellings = [spelling.lower() for gpu in GPUS for spelling in {gpu.name, gpu.title.lower()}]

    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_row_is_plausible(gpu: object) -> None:
    """CUDA reports a little less memory than advertised; compute units depend on the architecture."""
    from engines.facts.gpus import Gpu

    assert isinstance(gpu, Gpu)
    assert 0.9 * gpu.marketed_gb * GIB <= gpu.usable_bytes <= gpu.marketed_gb * GIB
    assert (gpu.peaks.fp8 is not None) == (gpu.sm >= 89)
    assert (gpu.peaks.fp4 is not None) == (gpu.sm >= 100)
    assert gpu.source.startswith("NVIDIA ")
    # The ratio of operations to bytes is some hundred on every GPU, so an error by a factor of ten is found.
    assert 50 < gpu.peaks.bf16 / gpu.bandwidth < 500


@pytest.mark.parametrize(
    ("name", "sm", "gigabytes_per_second", "bf16", "fp8"),
    [
        ("a100-80", 80, 2039, 312, None),
        ("a10", 86, 600, 125, None),
        ("l4", 89, 300, 121, 242.5),
        ("h100", 90, 3350, 989.4, 1978.9),
        ("h200", 90, 4800, 989.4, 1978.9),
        ("b200", 100, 8000, 2250, 4500),
    ],
)
def test_the_data_sheets_are_dense(
    name: str, sm: int, gigabytes_per_second: float, bf16: float, fp8: float | None
) -> None:
    """Data sheets print sparse figures; the dense ones are half of them."""
    gpu = find_gpu(name)

    assert gpu.sm == sm
    assert gpu.bandwidth == gigabytes_per_second * 1e9
    assert gpu.peaks.bf16 == bf16 * 1e12
    assert gpu.peaks.fp8 == (None if fp8 is None else fp8 * 1e12)


def test_missing_units_fall_back_to_16_bits() -> None:
    """An A10 has no FP8 units and multiplies in 16 bits."""
    assert find_gpu("a10").peaks.of("fp8") == find_gpu("a10").peaks.bf16
