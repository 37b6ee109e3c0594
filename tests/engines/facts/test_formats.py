"""Which GPU architecture supports which format: every cell of the table."""

from __future__ import annotations

import pytest

from engines.errors import PlanRefused
from engines.facts.formats import (
    FORMATS,
    KV_BYTES,
    default_kv_cache,
    find_format,
    find_kv_cache,
    kv_verdict,
    paged_context_obstacle,
    weight_verdict,
)

COLUMNS = (80, 86, 89, 90, 100, 103, 120)
WEIGHTS = {
    "bf16": "yes yes yes yes yes yes yes",
    "fp16": "yes yes yes yes yes yes yes",
    "fp8": "no no yes yes yes yes unverified",
    "fp8-rowwise": "no no unverified yes no no unverified",
    "nvfp4": "no no no no yes yes unverified",
    "int4-awq": "yes yes yes yes no no unverified",
    "int4-gptq": "yes yes yes yes no no unverified",
    "int4-wo": "yes yes yes yes no no unverified",
    "int8-wo": "yes yes yes yes no no unverified",
    "w4a8-awq": "no no yes yes unverified unverified unverified",
    "int8-sq": "yes yes yes yes no no unverified",
}
KV = {
    "bf16": "yes yes yes yes yes yes yes",
    "fp8": "yes yes yes yes yes yes yes",
    "int8": "yes yes yes yes no no unverified",
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("column", "sm"), list(enumerate(COLUMNS)))
def test_formats_of_weights_by_architecture(name: str, column: int, sm: int) -> None:
    """As the facts have it; whatever is not plainly possible has a reason."""
    verdict = weight_verdict(FORMATS[name], sm)

    assert verdict.support.value == WEIGHTS[name].split()[column]
    assert bool(verdict.reason) == (verdict.support.value != "yes")


@pytest.mark.parametrize("name", KV_BYTES)
@pytest.mark.parametrize(("column", "sm"), list(enumerate(COLUMNS)))
def test_formats_of_kv_caches_by_architecture(name: str, column: int, sm: int) -> None:
    """As the facts have it; whatever is not plainly possible has a reason."""
    verdict = kv_verdict(name, sm)

    assert verdict.support.value == KV[name].split()[column]
    assert bool(verdict.reason) == (verdict.support.value != "yes")


@pytest.mark.parametrize("sm", COLUMNS)
@pytest.mark.parametrize("name", FORMATS)
def test_which_kv_caches_allow_paged_context(name: str, sm: int) -> None:
    """16 bits always, INT8 never, FP8 with FP8 attention: on SM 89, with FP8, W4A8 or NVFP4 weights."""
    form = FORMATS[name]

    assert paged_context_obstacle(form, "bf16", sm) is None
    assert paged_context_obstacle(form, "int8", sm) is not None
    has_fp8 = sm >= 89 and name in ("fp8", "w4a8-awq", "nvfp4")
    assert (paged_context_obstacle(form, "fp8", sm) is None) == has_fp8
    assert default_kv_cache(form, sm) == ("fp8" if has_fp8 else "bf16")


@pytest.mark.parametrize(
    ("written", "name"), [("FP8", "fp8"), ("int4_awq", "int4-awq"), ("W4A8-AWQ", "w4a8-awq")]
)
def test_formats_are_found_in_any_spelling(written: str, name: str) -> None:
    """Case and underscores do not matter."""
    assert find_format(written).name == name


def test_unknown_formats_are_refused_with_the_nearest() -> None:
    """The error names the field and the known formats."""
    with pytest.raises(PlanRefused, match=r"^quantization int4-awk: .*did you mean int4-awq\?"):
        find_format("int4-awk")
    with pytest.raises(PlanRefused, match=r"^kv_cache fp88: .*did you mean fp8.*known: bf16, fp8, int8"):
        find_kv_cache("fp88")


def test_an_nvfp4_kv_cache_is_refused() -> None:
    """No build tool of compiled engines supports it."""
    with pytest.raises(PlanRefused, match=r"^kv_cache NVFP4: .*PyTorch"):
        find_kv_cache("NVFP4")


def test_16_bits_of_the_kv_cache_have_one_name() -> None:
    """The KV cache has the model's own 16-bit type."""
    assert find_kv_cache("fp16") == find_kv_cache("BF16") == "bf16"
