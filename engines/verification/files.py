"""Checks the files of an engine: plans, recorded sizes and hashes, the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engines.errors import NOTHING, Finding
from engines.facts.engine_directory import EngineConfig, FileFacts, engine_files, is_large, ranks, sha256_of
from engines.facts.formats import FORMATS, WeightFormat
from engines.facts.models import ModelConfig
from engines.facts.tokenizer_files import (
    TOKENIZER_FILE,
    TokenizerFacts,
    TokenizerUnreadableError,
    read_tokenizer,
)
from engines.manifest import Manifest
from engines.planning.memory import weight_bytes

_MIN_PLAN_SHARE = 0.5


def check_ranks(directory: Path, config: EngineConfig) -> Iterator[Finding]:
    """One plan for each rank, none empty, none too many."""
    world, there = config.split.world_size, set(ranks(directory))
    expected = f"one plan for each of {world} ranks" if world > 1 else "the engine's plan"
    for rank in range(world):
        file = directory / f"rank{rank}.engine"
        if rank not in there:
            yield Finding(file.name, NOTHING, expected)
        elif not file.stat().st_size:
            yield Finding(file.name, "0 bytes", expected)
        managed = f"rank{rank}_managed_weights.safetensors"
        if config.plugins.manage_weights and not (directory / managed).is_file():
            yield Finding(managed, NOTHING, "the weights of an engine built with manage_weights")
    for rank in sorted(there - set(range(world))):
        yield Finding(
            f"rank{rank}.engine", "a file", f"none: config.json is of {world} rank{'s'[: world - 1]}"
        )
    if config.quantization.quant_algo == "MIXED_PRECISION" and not (directory / "quant_cfg.json").is_file():
        yield Finding("quant_cfg.json", NOTHING, "the layers' formats of a MIXED_PRECISION engine")


def check_recorded(directory: Path, manifest: Manifest, *, quick: bool) -> Iterator[Finding]:
    """Every file of the manifest, in size and content; `quick` reads no plans."""
    there = set(engine_files(directory))
    for name, facts in manifest.files.items():
        if name not in there:
            yield Finding(name, NOTHING, f"a file of {facts.size} bytes")
        else:
            yield from _compare_file(directory, name, facts, hashes=not (quick and is_large(name)))
    for name in sorted(there - manifest.files.keys()):
        yield Finding(name, "a file", "none: the manifest does not know it", "warning")


def _compare_file(directory: Path, name: str, facts: FileFacts, *, hashes: bool) -> Iterator[Finding]:
    path = directory / name
    try:
        size = path.stat().st_size
        if size != facts.size:
            yield Finding(name, f"{size} bytes", f"{facts.size} bytes")
        elif hashes:
            digest = sha256_of(path)
            if digest != facts.sha256:
                yield Finding(name, f"sha256 {digest}", f"sha256 {facts.sha256}")
    except OSError as error:
        yield Finding(name, f"a file that cannot be read ({error.strerror})", "a readable file")


def check_unrecorded(directory: Path, config: EngineConfig, *, has_manifest: bool) -> Iterator[Finding]:
    """Check the size of plans that no manifest has recorded."""
    if has_manifest:
        return
    yield Finding("files", "no manifest with sizes and hashes", "one; see `engine adopt`", "unchecked")
    least = int(_MIN_PLAN_SHARE * (expected_weights(config) or 0))
    if config.plugins.manage_weights:
        return
    for rank in range(config.split.world_size):
        file = directory / f"rank{rank}.engine"
        size = file.stat().st_size if file.is_file() else 0
        if 0 < size < least:
            expected = f"about {expected_weights(config)} bytes of weights"
            yield Finding(file.name, f"{size} bytes", expected, "warning")


def expected_weights(config: EngineConfig) -> int | None:
    """Bytes of weights in one rank's plan; None for unknown formats."""
    form = weight_format(config)
    if form is None or config.split.world_size != config.split.tp_size:
        return None
    return weight_bytes(model_of(config), form, config.split.tp_size)


def weight_format(config: EngineConfig) -> WeightFormat | None:
    """The format of the engine's weights; None where it is unknown."""
    algo = config.quantization.quant_algo
    algo = None if algo == "NO_QUANT" else algo
    if algo is not None and algo.startswith("W8A8_SQ_"):
        return FORMATS["int8-sq"]
    return next((form for form in FORMATS.values() if form.algo == algo), None)


def model_of(config: EngineConfig) -> ModelConfig:
    """The engine's model, as plans describe models."""
    shape = config.shape
    return ModelConfig(
        name="engine",
        source="tensorrt-llm",
        path=None,
        architecture=shape.architecture,
        dtype="float16" if shape.dtype == "float16" else "bfloat16",
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        layers=shape.num_hidden_layers,
        heads=shape.num_attention_heads,
        kv_heads=shape.num_key_value_heads,
        head_size=shape.head_size,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.max_position_embeddings,
    )


_MIN_VOCABULARY_SHARE = 0.9
"""Matrices are padded a little beyond the tokenizer, never by this much."""


def check_tokenizer(
    directory: Path, config: EngineConfig | None, manifest: Manifest | None
) -> Iterator[Finding]:
    """Look at vocabulary, chat template and ends, as far as there is something to compare them with."""
    try:
        facts = read_tokenizer(directory)
    except TokenizerUnreadableError as error:
        missing = error.is_missing
        excusable = missing and (manifest is None or manifest.tokenizer is None)
        expected = "the model's tokenizer; `engine adopt --checkpoint DIR` copies it here"
        yield Finding(
            error.file,
            error.found,
            expected if missing else "an intact file",
            "warning" if excusable else "error",
        )
        return
    if config is not None:
        yield from _check_vocabulary(facts, config.shape.vocab_size)
    yield from _check_stop_ids(facts)
    if manifest is None or manifest.tokenizer is None:
        yield Finding("tokenizer", "no hash in a manifest", "one; see `engine adopt`", "unchecked")
    else:
        yield from _compare_tokenizers(facts, manifest.tokenizer)


def _check_vocabulary(facts: TokenizerFacts, size: int) -> Iterator[Finding]:
    if facts.vocabulary_size > size or facts.vocabulary_size < _MIN_VOCABULARY_SHARE * size:
        yield Finding(TOKENIZER_FILE, f"{facts.vocabulary_size} tokens", f"the engine's vocab_size, {size}")


def _check_stop_ids(facts: TokenizerFacts) -> Iterator[Finding]:
    if not facts.stop_ids:
        yield Finding("stop_ids", "none", "tokens that end an answer, in generation_config.json", "warning")
    for index in facts.stop_ids:
        if index >= facts.vocabulary_size:
            yield Finding("stop_ids", str(index), f"ids below {facts.vocabulary_size}, the tokenizer's")


def _compare_tokenizers(facts: TokenizerFacts, recorded: TokenizerFacts) -> Iterator[Finding]:
    if facts.vocabulary_size != recorded.vocabulary_size:
        expected = f"the manifest's {recorded.vocabulary_size}"
        yield Finding("tokenizer.vocabulary_size", str(facts.vocabulary_size), expected)
    if facts.sha256 != recorded.sha256:
        yield Finding("tokenizer", f"sha256 {facts.sha256}", f"the manifest's sha256 {recorded.sha256}")
    if facts.chat_template_sha256 != recorded.chat_template_sha256:
        yield Finding("chat_template", _template_hash(facts), f"the manifest's {_template_hash(recorded)}")
    if facts.stop_ids != recorded.stop_ids:
        yield Finding("stop_ids", _ids(facts), f"the manifest's {_ids(recorded)}")


def _template_hash(facts: TokenizerFacts) -> str:
    return "none" if facts.chat_template_sha256 is None else f"sha256 {facts.chat_template_sha256}"


def _ids(facts: TokenizerFacts) -> str:
    return ", ".join(map(str, facts.stop_ids)) or "none"
