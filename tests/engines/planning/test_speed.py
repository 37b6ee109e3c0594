"""Upper bounds of speed: exact in simple cases, and above all published measurements."""

from __future__ import annotations

import pytest

from engines.facts.formats import FORMATS
from engines.facts.gpus import find_gpu
from engines.facts.models import LLAMA_3_1_8B
from engines.planning import memory
from engines.planning.memory import Limits
from engines.planning.speed import Roofline

# Published output tokens a second of Llama-3.1-8B on one GPU, without limits to latency: the performance
# overview of TensorRT-LLM 0.13 (compiled engines), and for H100 and H200 in FP8 also that of 1.0.
PUBLISHED = {
    "h200 fp8": "28126 22989 16078 19382 16435 3626 11073 3824 1635",
    "h200 fp8 1.0": "27911 26221 18027 20770 17744 3538 12194 3902 1804",
    "gh200 fp8": "26046 16498 9638 15129 12355 3358 7851 3217 1201",
    "h100 fp8": "27147 19221 11856 13996 13411 3497 8851 3277 1278",
    "h100 fp8 1.0": "28312 22714 14325 17660 15220 3450 9305 3459 1351",
    "h100 fp16": "15648 8883 5463 6835 7161 1859 4152 1688 596",
    "a100-80 fp16": "6687 4919 3054 3930 3592 796 2270 789 316",
    "l40s fp8": "8549 4989 2769 3911 3648 1001 2056 872 264",
}
SHAPES = (
    *((128, 128), (128, 2048), (128, 4096), (500, 2000), (1000, 1000)),
    *((2048, 128), (2048, 2048), (5000, 500), (20_000, 2000)),
)


@pytest.mark.parametrize("column", PUBLISHED)
@pytest.mark.parametrize(("row", "shape"), list(enumerate(SHAPES)))
def test_no_published_figure_is_above_the_bound(column: str, row: int, shape: tuple[int, int]) -> None:
    """The bound is realistic, too: measurements reach at least a fifth of it."""
    gpu, form = column.split()[:2]
    measured = float(PUBLISHED[column].split()[row])
    kv_cache = "fp8" if form == "fp8" else "bf16"
    limits = Limits(max_batch_size=512, max_seq_len=32_768, max_num_tokens=8192)
    pool = memory.divide(
        LLAMA_3_1_8B, FORMATS[form], kv_cache, find_gpu(gpu), limits=limits, tp=1, fraction=0.95
    )
    # Requests of one shape are at different points of their answers: about twice as many half-full ones fit.
    batch = min(2048, pool.requests(shape[0] + shape[1] // 2))
    bound = Roofline(LLAMA_3_1_8B, FORMATS[form], kv_cache, find_gpu(gpu)).serve(batch, *shape)

    assert 0.2 * bound.tokens_per_second < measured < bound.tokens_per_second


def test_one_stream_reads_all_weights_for_each_token() -> None:
    """The speed is bandwidth by bytes: 3.35 TB/s by 16.06 GB without the embedding."""
    bound = Roofline(LLAMA_3_1_8B, FORMATS["bf16"], "bf16", find_gpu("h100")).decode(1, 0)

    assert bound.limited_by == "memory"
    assert bound.tokens_per_second == pytest.approx(3.35e12 / (16_060_522_496 - 2 * 525_336_576 + 131_072))


def test_long_prompts_are_limited_by_arithmetic() -> None:
    """The speed is the peak by two operations a weight, if attention and output are small."""
    bound = Roofline(LLAMA_3_1_8B, FORMATS["fp8"], "fp8", find_gpu("h100")).prefill(512)

    assert bound.limited_by == "compute"
    assert bound.tokens_per_second == pytest.approx(1978.9e12 / (2 * 6_979_321_856), rel=0.02)


@pytest.mark.parametrize("form", ["bf16", "int4-awq", "fp8"])
def test_batches_share_the_weights(form: str) -> None:
    """More requests have a higher total speed, and each is slower."""
    roof = Roofline(LLAMA_3_1_8B, FORMATS[form], "bf16", find_gpu("l40s"))
    together = [roof.decode(batch, 500).tokens_per_second for batch in (1, 2, 8, 32, 128)]
    each = [speed / batch for speed, batch in zip(together, (1, 2, 8, 32, 128), strict=True)]

    assert together == sorted(together)
    assert each == sorted(each, reverse=True)


def test_more_context_is_slower() -> None:
    """Keys and values are read for every token."""
    roof = Roofline(LLAMA_3_1_8B, FORMATS["fp8"], "fp8", find_gpu("h200"))
    speeds = [roof.decode(64, context).tokens_per_second for context in (0, 1000, 8000, 100_000)]

    assert speeds == sorted(speeds, reverse=True)


def test_weight_only_formats_save_bytes_but_no_arithmetic() -> None:
    """INT4 AWQ decodes faster than 16 bits, but its prefill is not faster."""
    plain, awq = (
        Roofline(LLAMA_3_1_8B, FORMATS[form], "bf16", find_gpu("a10")) for form in ("bf16", "int4-awq")
    )

    assert awq.decode(1, 100).tokens_per_second > 2 * plain.decode(1, 100).tokens_per_second
    assert awq.prefill(2048) == plain.prefill(2048)


def test_two_gpus_are_at_most_twice_as_fast() -> None:
    """The embedding does not count, since it is never read completely."""
    one, two = (Roofline(LLAMA_3_1_8B, FORMATS["bf16"], "bf16", find_gpu("h100"), tp) for tp in (1, 2))

    assert two.decode(8, 1000).tokens_per_second == pytest.approx(
        2 * one.decode(8, 1000).tokens_per_second, rel=1e-3
    )
    assert two.prefill(2048).tokens_per_second == pytest.approx(2 * one.prefill(2048).tokens_per_second)


def test_the_prefill_of_a_short_prompt_is_limited_by_bandwidth() -> None:
    """All weights are read once before the first token; a long prompt is limited by arithmetic."""
    roof = Roofline(LLAMA_3_1_8B, FORMATS["bf16"], "bf16", find_gpu("h100"))

    assert roof.first_token_seconds(1) == pytest.approx(
        (16_060_522_496 - 2 * 525_336_576) / 3.35e12, rel=1e-3
    )
    assert roof.first_token_seconds(8192) == pytest.approx(8192 / roof.prefill(8192).tokens_per_second)
