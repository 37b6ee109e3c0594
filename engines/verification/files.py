"""Whether the files are there that config.json and the manifest speak of, and unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engines.engine_config import EngineConfig
from engines.engine_files import FileFacts, engine_files, is_large, ranks, sha256_of
from engines.finding import NOTHING, Finding
from engines.manifest import Manifest
from engines.memory import weight_bytes
from engines.model_config import ModelConfig
from engines.quantization import FORMATS, WeightFormat

_PLAUSIBLE = 0.5


def check_ranks(directory: Path, config: EngineConfig) -> Iterator[Finding]:
    """One plan for each rank, none empty, none too many."""
    world, there = config.split.world_size, set(ranks(directory))
    wanted = f"one plan for each of {world} ranks" if world > 1 else "the engine's plan"
    for rank in range(world):
        file = directory / f"rank{rank}.engine"
        if rank not in there:
            yield Finding(file.name, NOTHING, wanted)
        elif not file.stat().st_size:
            yield Finding(file.name, "0 bytes", wanted)
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
            yield from _compare(directory, name, facts, hashes=not (quick and is_large(name)))
    for name in sorted(there - manifest.files.keys()):
        yield Finding(name, "a file", "none: the manifest does not know it", "warning")


def _compare(directory: Path, name: str, facts: FileFacts, *, hashes: bool) -> Iterator[Finding]:
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
    """What can be said of a plan's size where no manifest knows it."""
    if has_manifest:
        return
    yield Finding("files", "no manifest with sizes and hashes", "one; see `engine adopt`", "unchecked")
    least = int(_PLAUSIBLE * (expected_weights(config) or 0))
    if config.plugins.manage_weights:
        return
    for rank in range(config.split.world_size):
        file = directory / f"rank{rank}.engine"
        size = file.stat().st_size if file.is_file() else 0
        if 0 < size < least:
            wanted = f"about {expected_weights(config)} bytes of weights"
            yield Finding(file.name, f"{size} bytes", wanted, "warning")


def expected_weights(config: EngineConfig) -> int | None:
    """Bytes of weights in one rank's plan; None for formats that nobody knows here."""
    form = weight_format(config)
    if form is None or config.split.world_size != config.split.tp_size:
        return None
    return weight_bytes(model_of(config), form, config.split.tp_size)


def weight_format(config: EngineConfig) -> WeightFormat | None:
    """The format of this room that the engine's weights have."""
    algo = config.quantization.quant_algo
    algo = None if algo == "NO_QUANT" else algo
    if algo is not None and algo.startswith("W8A8_SQ_"):
        return FORMATS["int8-sq"]
    return next((form for form in FORMATS.values() if form.algo == algo), None)


def model_of(config: EngineConfig) -> ModelConfig:
    """The engine's model, as plans know models."""
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
