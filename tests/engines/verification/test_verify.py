"""Verification of engine directories: every damage is named in one line; intact engines have no findings."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from engines.facts.gpus import MIB
from engines.facts.machine import InstalledGpu, Runtime
from engines.verification.verify import has_errors, verify
from tests.engines.engine_dirs import H100, L4, edit, machine, write_engine, write_plain, write_tokenizer

PLUGINS = "build_config.plugin_config"


@dataclass(frozen=True)
class Damage:
    """A change of an engine, and the beginning of the line that names it."""

    name: str
    line: str
    """A regular expression."""
    do: Callable[[Path], object] = lambda _: None
    runtime: Runtime = field(default_factory=lambda: machine(L4))
    severity: str = "error"
    tp_size: int = 1


def put(file: str, dotted: str, value: object) -> Callable[[Path], None]:
    """Set a key of a JSON file."""

    def do(directory: Path) -> None:
        def change(document: Any) -> None:
            *path, last = dotted.split(".")
            for name in path:
                document = document[name]
            document[last] = value

        edit(directory / file, change)

    return do


def config(dotted: str, value: object) -> Callable[[Path], None]:
    return put("config.json", dotted, value)


def manifest(dotted: str, value: object) -> Callable[[Path], None]:
    return put("manifest.json", dotted, value)


def unnoted(damage: Callable[[Path], object]) -> Callable[[Path], None]:
    """The damage to an engine without a manifest."""

    def do(directory: Path) -> None:
        (directory / "manifest.json").unlink()
        damage(directory)

    return do


def flip_byte(directory: Path) -> None:
    content = bytearray((directory / "rank0.engine").read_bytes())
    content[len(content) // 2] ^= 1
    (directory / "rank0.engine").write_bytes(content)


def truncate(name: str) -> Callable[[Path], None]:
    def do(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: len(content) // 2])

    return do


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(content)


def swap_tokenizer(directory: Path) -> None:
    """Exchange two tokens; the size stays the same."""

    def change(document: Any) -> None:
        vocabulary = document["model"]["vocab"]
        vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]

    edit(directory / "tokenizer.json", change)


def grow_tokenizer(directory: Path) -> None:
    edit(directory / "tokenizer.json", lambda d: d["added_tokens"].append({"id": 999, "content": "<|x|>"}))


def shrink_tokenizer(directory: Path) -> None:
    def change(document: Any) -> None:
        document["added_tokens"] = []
        document["model"]["vocab"] = {"a": 0, "b": 1}

    edit(directory / "tokenizer.json", change)


HASH = "sha256 [0-9a-f]{64}"
DAMAGES = (
    Damage("one flipped byte", rf"rank0\.engine: found {HASH}, expected {HASH}$", flip_byte),
    Damage(
        "truncated plan",
        r"rank0\.engine: found 131072 bytes, expected 262144 bytes",
        truncate("rank0.engine"),
    ),
    Damage(
        "missing rank", r"rank0\.engine: is missing; it must be the engine's plan", remove("rank0.engine")
    ),
    Damage(
        "missing second rank",
        r"rank1\.engine: is missing; it must be one plan for each of 2 ranks",
        remove("rank1.engine"),
        machine(L4, L4),
        tp_size=2,
    ),
    Damage(
        "extra rank",
        r"rank1\.engine: found a file, expected none: config\.json is of 1 rank$",
        write("rank1.engine", "plan"),
    ),
    Damage(
        "empty rank", r"rank0\.engine: found 0 bytes, expected the engine's plan", write("rank0.engine", "")
    ),
    Damage(
        "wrong SM", r"gpu\.sm: found 90 \(NVIDIA H100 .*\), expected the build's, 89", runtime=machine(H100)
    ),
    Damage(
        "second GPU of another SM",
        r"gpu\.sm: found 90 \(NVIDIA H100 .*\), expected the build's, 89",
        runtime=machine(L4, H100),
        tp_size=2,
    ),
    Damage(
        "another GPU of that SM",
        r"gpu\.name: found NVIDIA L40S, expected the build's, NVIDIA L4",
        runtime=machine(replace(L4, name="NVIDIA L40S")),
        severity="warning",
    ),
    Damage(
        "FP8 on SM 80",
        r"pretrained_config\.quantization\.quant_algo: found FP8, expected what SM 80 takes",
        runtime=machine(replace(L4, sm=80)),
    ),
    Damage(
        "wrong TensorRT-LLM",
        r"version: found 1\.2\.1, expected the installed TensorRT-LLM, 1\.2\.2$",
        runtime=machine(L4, tensorrt_llm="1.2.2"),
    ),
    Damage(
        "wrong TensorRT",
        r"tensorrt: found 10\.13\.3 installed, expected the build's, 10\.14\.1\.48$",
        runtime=machine(L4, tensorrt="10.13.3"),
    ),
    Damage(
        "older driver",
        r"driver: found 570\.1, expected the build's, 580\.95, or newer",
        runtime=machine(L4, driver="570.1"),
        severity="warning",
    ),
    Damage(
        "unsupported version",
        r"version: found 1\.3\.0rc22, expected a TensorRT-LLM >=1",
        config("version", "1.3.0rc22"),
    ),
    Damage(
        "edited version",
        r"version: found 1\.2\.2, expected the manifest's 1\.2\.1",
        config("version", "1.2.2"),
    ),
    Damage("too few GPUs", r"gpus: found 1, expected 2, one for each rank", runtime=machine(L4), tp_size=2),
    Damage(
        "memory too small",
        r"gpu 0: memory: found .* on NVIDIA L4, expected more than the plan's",
        runtime=machine(replace(L4, memory_bytes=MIB // 8)),
    ),
    Damage(
        "memory tight",
        r"gpu 0: memory: found 0\.98 GiB on NVIDIA L4, expected about 1\.\d+ GiB",
        runtime=machine(replace(L4, memory_bytes=1000 * MIB)),
        severity="warning",
    ),
    Damage(
        "memory taken by others",
        r"gpu 0: memory: found 0\.49 GiB free, expected about 1\.\d+ GiB",
        runtime=machine(replace(L4, free_bytes=500 * MIB)),
        severity="warning",
    ),
    Damage(
        "missing config",
        r"config\.json: is missing; it must be the config\.json of an engine",
        remove("config.json"),
    ),
    Damage("truncated config", r"config\.json: found no valid JSON", truncate("config.json")),
    Damage("deep config", r"config\.json: found no valid JSON", write("config.json", "[" * 100_000)),
    Damage("deep manifest", r"manifest\.json: found no valid JSON", write("manifest.json", "[" * 100_000)),
    Damage("deep tokenizer", r"tokenizer\.json: found no valid JSON", write("tokenizer.json", "[" * 100_000)),
    Damage(
        "config of a TensorRT-LLM checkpoint",
        r"config\.json: found that of a TensorRT-LLM checkpoint, expected",
        write("config.json", '{"architecture": "LlamaForCausalLM", "dtype": "bfloat16"}'),
    ),
    Damage(
        "config of a Hugging Face model",
        r"config\.json: found that of a Hugging Face model, expected",
        write("config.json", '{"architectures": ["LlamaForCausalLM"]}'),
    ),
    Damage(
        "config of another kind", r"config\.json: found no JSON object, expected", write("config.json", "[]")
    ),
    Damage(
        "malformed field",
        r"build_config\.max_batch_size: found many, expected a whole number above 0",
        config("build_config.max_batch_size", "many"),
    ),
    Damage(
        "field gone",
        r"pretrained_config\.mapping\.world_size: is missing; it must be a whole number",
        config("pretrained_config.mapping", {"tp_size": 1}),
    ),
    Damage(
        "section gone",
        r"build_config\.plugin_config: is missing; it must be a JSON object",
        config(PLUGINS, None),
    ),
    Damage("swapped tokenizer", rf"tokenizer\.json: found {HASH}, expected {HASH}", swap_tokenizer),
    Damage("missing tokenizer", r"tokenizer\.json: is missing; it must be", remove("tokenizer.json")),
    Damage("truncated tokenizer", r"tokenizer\.json: found no valid JSON", truncate("tokenizer.json")),
    Damage(
        "tokenizer too large",
        r"tokenizer\.json: found 1000 tokens, expected the engine's vocab_size, 264",
        grow_tokenizer,
    ),
    Damage(
        "tokenizer too small",
        r"tokenizer\.json: found 2 tokens, expected the engine's vocab_size, 264",
        shrink_tokenizer,
    ),
    Damage(
        "changed chat template",
        rf"chat_template: found {HASH}, expected the manifest's {HASH}",
        write("chat_template.jinja", "{{ messages }}"),
    ),
    Damage(
        "missing chat template",
        r"chat_template: found none, expected the manifest's",
        remove("chat_template.jinja"),
    ),
    Damage(
        "changed ends",
        r"stop_ids: found 257, 261, expected the manifest's 257, 260, 261",
        write("generation_config.json", '{"eos_token_id": 257}'),
    ),
    Damage(
        "impossible end",
        r"stop_ids: found 5000, expected ids below 264",
        write("generation_config.json", '{"eos_token_id": 5000}'),
    ),
    Damage(
        "missing file",
        r"special_tokens_map\.json: is missing; it must be a file of \d+ bytes",
        remove("special_tokens_map.json"),
    ),
    Damage(
        "unknown file",
        r"notes\.txt: found a file, expected none: the manifest does not know it",
        write("notes.txt", "x"),
        severity="warning",
    ),
    Damage(
        "vocabulary mismatch",
        r"pretrained_config\.vocab_size: found 300, expected the manifest's 264",
        config("pretrained_config.vocab_size", 300),
    ),
    Damage(
        "another architecture",
        r"pretrained_config\.architecture: found QWenForCausalLM, expected the manifest's",
        config("pretrained_config.architecture", "QWenForCausalLM"),
    ),
    Damage(
        "another depth",
        r"pretrained_config\.num_hidden_layers: found 3, expected the manifest's 2",
        config("pretrained_config.num_hidden_layers", 3),
    ),
    Damage(
        "heads that do not divide",
        r"pretrained_config\.num_key_value_heads: found 3, expected a divisor of the 4",
        config("pretrained_config.num_key_value_heads", 3),
    ),
    Damage(
        "world size",
        r"pretrained_config\.mapping\.world_size: found 2, expected tp_size x pp_size x cp_size = 1",
        config("pretrained_config.mapping.world_size", 2),
    ),
    Damage(
        "another format",
        r"pretrained_config\.quantization\.quant_algo: is missing; it must be the manifest's FP8",
        config("pretrained_config.quantization.quant_algo", None),
    ),
    Damage(
        "changed limits",
        r"build_config\.max_batch_size: found 64, expected the manifest's 16",
        config("build_config.max_batch_size", 64),
    ),
    Damage(
        "longer than the model",
        r"build_config\.max_seq_len: found 9999, expected at most max_position_embeddings",
        unnoted(config("build_config.max_seq_len", 9999)),
        severity="warning",
    ),
    Damage(
        "paged context off",
        rf"{PLUGINS}\.use_paged_context_fmha: found False, expected the manifest's True",
        config(f"{PLUGINS}.use_paged_context_fmha", False),
    ),
    Damage(
        "KV cache not paged",
        r"build_config\.kv_cache_type: found CONTINUOUS, expected PAGED",
        config("build_config.kv_cache_type", "CONTINUOUS"),
    ),
    Damage(
        "generation logits",
        r"build_config\.gather_generation_logits: found True, expected False: logits",
        unnoted(config("build_config.gather_generation_logits", True)),
        severity="warning",
    ),
    Damage(
        "context logits",
        r"build_config\.gather_context_logits: found True, expected the manifest's False",
        config("build_config.gather_context_logits", True),
    ),
    Damage(
        "paged context with INT8 KV",
        rf"{PLUGINS}\.use_paged_context_fmha: found True, expected False, as the builder sets it",
        config("pretrained_config.quantization.kv_cache_quant_algo", "INT8"),
        severity="warning",
    ),
    Damage(
        "paged context off, and nobody noted it",
        rf"{PLUGINS}\.use_paged_context_fmha: found False, expected True: without",
        unnoted(config(f"{PLUGINS}.use_paged_context_fmha", False)),
        severity="warning",
    ),
    Damage(
        "FP8 attention without FP8 weights",
        rf"{PLUGINS}\.use_fp8_context_fmha: found True, expected False, as the builder",
        config("pretrained_config.quantization.quant_algo", "W4A16_AWQ"),
        severity="warning",
    ),
    Damage(
        "padded input",
        rf"{PLUGINS}\.remove_input_padding: found False, expected True",
        unnoted(config(f"{PLUGINS}.remove_input_padding", False)),
        severity="warning",
    ),
    Damage(
        "steps smaller than the batch",
        r"build_config\.max_num_tokens: found 8, expected at least max_batch_size, 16",
        unnoted(config("build_config.max_num_tokens", 8)),
        severity="warning",
    ),
    Damage(
        "an architecture that nobody tried",
        r"pretrained_config\.architecture: found QWenForCausalLM, expected LlamaFor",
        unnoted(config("pretrained_config.architecture", "QWenForCausalLM")),
        severity="warning",
    ),
    Damage(
        "layers' formats missing",
        r"quant_cfg\.json: is missing; it must be the layers' formats",
        config("pretrained_config.quantization.quant_algo", "MIXED_PRECISION"),
    ),
    Damage(
        "streaming attention",
        rf"{PLUGINS}\.streamingllm: found True, expected False",
        config(f"{PLUGINS}.streamingllm", True),
    ),
    Damage(
        "block size",
        rf"{PLUGINS}\.tokens_per_block: found 48, expected a power of 2",
        unnoted(config(f"{PLUGINS}.tokens_per_block", 48)),
        severity="warning",
    ),
    Damage(
        "managed weights missing",
        r"rank0_managed_weights\.safetensors: is missing; it must be the weights",
        config(f"{PLUGINS}.manage_weights", True),
    ),
    Damage("truncated manifest", r"manifest\.json: found no valid JSON", truncate("manifest.json")),
    Damage("manifest of the future", r"manifest\.json: version: found 2, expected 1", manifest("version", 2)),
    Damage(
        "manifest of something",
        r"manifest\.json: schema: is missing; it must be lodestream",
        write("manifest.json", "{}"),
    ),
    Damage(
        "manifest with a malformed hash",
        r"manifest\.json: tokenizer\.sha256: found ABC, expected 64 lower-case hexadecimal digits",
        manifest("tokenizer.sha256", "ABC"),
    ),
    Damage(
        "manifest incomplete",
        r"manifest\.json: gpu\.sm: is missing; it must be there",
        manifest("gpu", {"name": "x", "memory_bytes": 1}),
    ),
    Damage(
        "manifest with more", r"manifest\.json: extra: found 1, expected no such name", manifest("extra", 1)
    ),
    Damage(
        "manifest with a path outside",
        r"manifest\.json: files: found \.\./x, expected names like",
        manifest(
            "files", {"config.json": {"size": 1, "sha256": "0" * 64}, "../x": {"size": 1, "sha256": "0" * 64}}
        ),
    ),
)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Intact engines by their number of ranks, which tests must not change."""
    root = tmp_path_factory.mktemp("whole")
    return {n: write_engine(root / f"tp{n}", tp_size=n, gpus=(L4,) * n) for n in (1, 2)}


@pytest.fixture
def engine(engines: dict[int, Path], tmp_path: Path) -> Path:
    """A copy of an engine that a test may damage."""
    return Path(shutil.copytree(engines[1], tmp_path / "engine"))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.name)
def test_a_damage_is_named_in_one_line(damage: Damage, engines: dict[int, Path], tmp_path: Path) -> None:
    directory = Path(shutil.copytree(engines[damage.tp_size], tmp_path / "engine"))
    damage.do(directory)

    findings = verify(directory, runtime=damage.runtime)

    naming = [f for f in findings if re.match(damage.line, str(f))]
    assert len(naming) == 1, "\n".join(map(str, findings))
    assert naming[0].severity == damage.severity
    assert "\n" not in str(naming[0])


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_intact_engine_has_no_findings(engines: dict[int, Path], ranks: int) -> None:
    assert verify(engines[ranks], runtime=machine(*[L4] * ranks)) == []


def test_without_a_machine_it_is_not_checked(engines: dict[int, Path]) -> None:
    assert verify(engines[1]) == []


def test_without_a_gpu_checks_of_the_gpu_are_unchecked(engines: dict[int, Path]) -> None:
    findings = verify(engines[1], runtime=Runtime())

    assert [(f.field, f.severity) for f in findings] == [
        ("tensorrt_llm", "unchecked"),
        ("tensorrt", "unchecked"),
        ("gpu", "unchecked"),
    ]


def test_quick_checks_the_size_of_plans_without_reading_them(engine: Path) -> None:
    flip_byte(engine)
    assert verify(engine, quick=True) == []

    truncate("rank0.engine")(engine)
    assert [f.field for f in verify(engine, quick=True)] == ["rank0.engine"]


def test_quick_still_hashes_the_tokenizer(engine: Path) -> None:
    swap_tokenizer(engine)

    assert "tokenizer.json" in {f.field for f in verify(engine, quick=True)}


def test_a_directory_without_manifest_has_only_unchecked_findings(tmp_path: Path) -> None:
    """The directory has the output of `trtllm-build` and a copied tokenizer."""
    directory = write_tokenizer(write_plain(tmp_path / "engine"))

    findings = verify(directory, runtime=machine(L4))

    assert not has_errors(findings)
    assert {f.field: f.severity for f in findings} == dict.fromkeys(
        ("files", "tokenizer", "tensorrt", "gpu.sm"), "unchecked"
    )


def test_the_finding_of_a_missing_tokenizer_says_how_to_add_it(tmp_path: Path) -> None:
    (finding,) = [f for f in verify(write_plain(tmp_path / "engine")) if f.field == "tokenizer.json"]

    assert finding.severity == "warning"
    assert "engine adopt --checkpoint DIR" in finding.expected


def test_a_plan_smaller_than_its_weights_is_found_without_manifest(tmp_path: Path) -> None:
    directory = write_plain(tmp_path / "engine")
    (directory / "rank0.engine").write_bytes(b"x" * 1000)

    (finding,) = [f for f in verify(directory) if f.field == "rank0.engine"]

    assert (finding.found, finding.severity) == ("1000 bytes", "warning")


def test_a_missing_directory_is_a_finding(tmp_path: Path) -> None:
    (finding,) = verify(tmp_path / "nothing")

    assert finding.severity == "error"
    assert finding.found == "no directory"


def test_errors_come_first(engine: Path) -> None:
    write("notes.txt", "x")(engine)
    config("build_config.max_batch_size", 64)(engine)

    severities = [f.severity for f in verify(engine, runtime=Runtime())]

    assert severities == sorted(severities, key=["error", "warning", "unchecked"].index)
    assert {"error", "warning", "unchecked"} == set(severities)


def test_every_changed_byte_of_the_config_is_found(engine: Path) -> None:
    """Even an additional space is found."""
    path = engine / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))

    assert [f.field for f in verify(engine)] == ["config.json"]


def test_gpus_beyond_the_ranks_do_not_matter(engines: dict[int, Path]) -> None:
    small = InstalledGpu("NVIDIA T4", 75, MIB, MIB)

    assert verify(engines[1], runtime=machine(L4, small)) == []


ODD: tuple[Any, ...] = (None, True, 0, -1, 1.5, "", "x", "9" * 400, [], [None], {}, {"x": {}}, 10**30)


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every value of a document, as its container and its key."""
    found: list[tuple[Any, Any]] = []
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items if isinstance(document, (dict, list)) else ():
        found.append((document, key))
        found += places(value) if isinstance(value, (dict, list)) else []
    return found


@pytest.mark.parametrize(
    "file", ["config.json", "manifest.json", "tokenizer_config.json", "generation_config.json"]
)
def test_any_value_in_a_file_gives_findings_and_no_exception(engine: Path, file: str) -> None:
    """Each value of the file is replaced by several unusual ones."""
    text = (engine / file).read_text()
    for index in range(len(places(json.loads(text)))):
        for odd in (ODD[(3 * index + step) % len(ODD)] for step in range(3)):
            document = json.loads(text)
            container, key = places(document)[index]
            if container[key] == odd and type(container[key]) is type(odd):
                continue
            container[key] = odd
            (engine / file).write_text(json.dumps(document))
            findings = verify(engine, runtime=machine(L4), quick=True)
            assert all("\n" not in str(finding) for finding in findings)
            assert findings or file == "manifest.json", f"{key} = {odd!r}"


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(added_tokens=[{"id": 1}]),
        lambda d: d.update(added_tokens=[{"id": "1", "content": "x"}]),
        lambda d: d.update(added_tokens=7),
        lambda d: d["model"].update(vocab={"a": "b"}),
        lambda d: d["model"].update(vocab={"a": None}),
        lambda d: d["model"].update(vocab=[]),
        lambda d: d.update(model=None),
    ],
)
def test_a_tokenizer_of_another_shape_is_named(engine: Path, change: Callable[[Any], object]) -> None:
    edit(engine / "tokenizer.json", change)

    assert any(f.field == "tokenizer.json" and f.severity == "error" for f in verify(engine))
