"""The printed report: the bar at any width, tables, and colours only on terminals."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.planning.plan import plan
from engines.planning.recipe import Command
from engines.planning.report import Canvas, memory_bar, report, share_cells, table, wrap
from tests.engines.checkpoints import LLAMA, modelopt, write

EIGHT_B = "llama-3.1-8b"


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [20, 33, 47, 80, 100])
@pytest.mark.parametrize("gpu", ["l4", "h200"])
def test_the_bar_is_as_wide_as_the_canvas(gpu: str, width: int) -> None:
    """The width is exact, and no other line is wider."""
    bar, *legend = memory_bar(plan(EIGHT_B, gpu).memory, Canvas(width)).splitlines()

    assert len(bar) == width
    assert max(map(len, legend)) <= width
    assert re.fullmatch("█+▓+▒+░+", bar)
    assert legend[0].startswith("█ weights ")


def test_the_bar_is_to_scale() -> None:
    """On an L4, weights in FP8 take 8.46 of 21.96 GiB, so 31 of 80 cells; the KV cache takes 8.65."""
    bar = memory_bar(plan(EIGHT_B, "l4").memory, Canvas(80)).splitlines()[0]

    assert (bar.count("█"), bar.count("▒")) == (31, 32)


def test_the_legend_names_the_parts_with_their_sizes() -> None:
    """The parts have the bar's order and marks."""
    bar = memory_bar(plan(EIGHT_B, "l4").memory, Canvas(100))

    assert bar.splitlines()[1:] == [
        "█ weights 8.5 GiB  ▓ workspace ~3.9 GiB  ▒ KV cache 8.7 GiB  ░ free 1.0 GiB"
    ]


def test_without_unicode_the_bar_is_ascii() -> None:
    """It has only ASCII characters, with four different marks."""
    bar = memory_bar(plan(EIGHT_B, "l4").memory, Canvas(60, has_unicode=False))

    assert bar.isascii()
    assert re.fullmatch(r"#+=+:+\.+", bar.splitlines()[0])


def test_colours_do_not_change_the_text() -> None:
    """Without the escape sequences the text is the same."""
    memory = plan(EIGHT_B, "l4").memory
    colored = memory_bar(memory, Canvas(80, has_color=True))

    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[\d+m", "", colored) == memory_bar(memory, Canvas(80))


@given(
    st.lists(st.integers(0, 10**12), min_size=4, max_size=4).filter(lambda sizes: sum(sizes) > 0),
    st.integers(20, 200),
)
def test_all_cells_of_the_bar_are_used(sizes: list[int], cells: int) -> None:
    """They add up, every part has at least one cell, and the shares are nearly exact."""
    shared = share_cells(sizes, cells)

    assert sum(shared) == cells
    assert all((n > 0) == (size > 0) for n, size in zip(shared, sizes, strict=True))
    assert all(abs(n - size * cells / sum(sizes)) < 4 for n, size in zip(shared, sizes, strict=True))


@pytest.mark.parametrize(
    ("environment", "has_color"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_only_for_terminals_without_no_color(
    environment: dict[str, str], has_color: bool
) -> None:
    """NO_COLOR with any value turns them off, and files have none."""
    assert Canvas.of(Terminal(), environment).has_color is has_color
    assert Canvas.of(io.StringIO(), environment).has_color is False


@pytest.mark.parametrize(("columns", "width"), [("5", 20), ("64", 64), ("300", 100)])
def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    """It is limited to a readable range."""
    monkeypatch.setenv("COLUMNS", columns)

    assert Canvas.of(Terminal()).width == width


def test_block_characters_need_a_unicode_encoding() -> None:
    """A stream whose encoding lacks block characters gets none."""
    ascii_stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")

    assert Canvas.of(Terminal()).has_unicode
    assert not Canvas.of(ascii_stream).has_unicode


def test_tables_are_aligned() -> None:
    """Names are left-aligned and numbers right-aligned, and no line ends with a space."""
    assert table([("name", "n"), ("a", "1,000"), ("long name", "7")]) == (
        "name           n\na          1,000\nlong name      7"
    )


def test_commands_can_be_pasted() -> None:
    """Each flag has its own line, and special characters of the shell are quoted."""
    command = Command("build", ("trtllm-build", "--output_dir", "my engine", "--dry_run"))

    assert wrap(command) == "trtllm-build \\\n      --output_dir 'my engine' \\\n      --dry_run"


def test_figures_for_two_gpus_are_per_gpu() -> None:
    """Figures are for one GPU, and the report says so."""
    text = report(plan(EIGHT_B, "h100", tp=2), Canvas())

    assert text.startswith("llama-3.1-8b on 2 x H100 SXM (SM 90, 80 GB, 3,350 GB/s)\n")
    assert re.search(r"^KV cache of a token a GPU +32 KiB$", text, re.MULTILINE)
    assert re.search(r"^Warning: for throughput, .*\.$", text, re.MULTILINE)


def test_the_expected_speed_is_beside_the_upper_bound() -> None:
    """The GPUs for a target are printed if there is one."""
    plain = report(plan(EIGHT_B, "h100"), Canvas())
    aimed = report(plan(EIGHT_B, "h100", target_tokens_per_second=50_000), Canvas())

    assert re.search(r"^128 \+ 128 +512 +65,593 +26,237 to 42,635 +compute", plain, re.MULTILINE)
    assert "what to expect, 40 to 65 % of it" in plain
    assert "GPUs for" not in plain
    assert re.search(r"expect +limited by +first token at least +GPUs for 50,000/s$", aimed, re.MULTILINE)
    assert re.search(r"^128 \+ 128 .* ms +2$", aimed, re.MULTILINE)
    assert re.search(r"^1,000 \+ 1,000 .* ms +3 to 5$", aimed, re.MULTILINE)


def test_the_report_has_the_origin_of_the_format() -> None:
    """It is recommended, or chosen instead of the recommendation."""
    assert "weights fp8 (recommended), KV cache fp8, paged context on" in report(
        plan(EIGHT_B, "l4"), Canvas()
    )
    assert "weights bf16 (recommended: fp8), KV cache bf16" in report(plan(EIGHT_B, "l4", "bf16"), Canvas())


def test_a_quantised_checkpoint_is_reported_as_such(tmp_path: Path) -> None:
    """The format is the checkpoint's own, and an impossible route has a reason."""
    text = report(plan(write(tmp_path, LLAMA, hf_quant_config=modelopt("FP8", "FP8")), "h100"), Canvas())

    assert "weights fp8 (the checkpoint's own)" in text
    assert "No way by trtllm-build: convert_checkpoint does not read modelopt FP8 checkpoints." in text


def test_a_short_engine_has_no_table_of_requests() -> None:
    """If none of the usual lengths is allowed, only that table is left out."""
    text = report(plan(EIGHT_B, "l4", max_seq_len=100), Canvas())

    assert "Requests that fit" not in text
    assert "Roofline of decoding, 50 tokens behind each request" in text
