"""Errors that prevent serving an engine are found before it is loaded, and reported in one line."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from engines.building.record import adopt
from engines.facts.machine import Runtime, writable_workspace
from inference_service.backends.base import BackendStartError, EngineDeadError
from inference_service.backends.tensorrt_llm.backend import TensorRtLlmBackend
from inference_service.backends.types import BackendDescription
from tests.inference_service.backends.contract import collect, request
from tests.support.tensorrt import (
    DOUBLE,
    LIMITS,
    SMALL_SIZE,
    make_engine,
    sampling_params_without,
    with_slow_tokenizer,
    write_small_tokenizer,
)

pytestmark = pytest.mark.usefixtures("double")


@dataclasses.dataclass(frozen=True, slots=True)
class Vocabulary:
    """The part of a tokenizer that the backend uses."""

    vocabulary_size: int = SMALL_SIZE
    eos_ids: frozenset[int] = frozenset({301, 302})


Start = Callable[..., Any]
Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds engine directories by name; arguments are those of `make_engine`."""
    files = tmp_path / "tokenizer"
    files.mkdir()
    write_small_tokenizer(files)
    return lambda name="engine", **how: make_engine(tmp_path / name, files, vocab_size=SMALL_SIZE, **how)


@pytest.fixture
def engine(build: Build) -> Path:
    return build()


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a backend; closes it after the test."""
    made: list[TensorRtLlmBackend] = []

    async def start(
        directory: Path, vocabulary: Vocabulary | None = None, **settings: Any
    ) -> BackendDescription:
        settings = {"context_length": 4096, **settings}
        made.append(TensorRtLlmBackend(directory, vocabulary or Vocabulary(), **settings))
        return await made[-1].start()

    yield start
    for backend in made:
        await backend.close()


@pytest.fixture
def loaded_with(double: Any, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """The arguments that the library's class was called with."""
    llm = import_module("tensorrt_llm._tensorrt_engine").LLM
    arguments: dict[str, Any] = {}
    construct = llm.__init__

    def spy(self: Any, **given: Any) -> None:
        arguments.update(given)
        construct(self, **given)

    monkeypatch.setattr(llm, "__init__", spy)
    return arguments


def edit(engine: Path, path: str, value: object) -> None:
    """Change one field of an engine's config.json, given by its dotted path; None removes it."""
    file = engine / "config.json"
    config = json.loads(file.read_text())
    *parents, name = path.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[name]
    else:
        place[name] = value
    file.write_text(json.dumps(config))


def forget_the_double(monkeypatch: pytest.MonkeyPatch, *instead: Path) -> None:
    """Remove TensorRT-LLM from this machine, or replace it by another version."""
    others = [path for path in sys.path if path != str(DOUBLE)]
    monkeypatch.setattr(sys, "path", [*map(str, instead), *others])
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
        monkeypatch.delitem(sys.modules, name)


async def refusal(start: Start, *arguments: Any, **settings: Any) -> str:
    with pytest.raises(BackendStartError) as caught:
        await start(*arguments, **settings)
    lines = [str(caught.value), *caught.value.details]
    assert not any("\n" in line for line in lines)
    return " | ".join(lines)


class TestLoading:
    async def test_the_description_has_the_engine_s_limits(self, start: Start, engine: Path) -> None:
        description = await start(engine, context_length=8192)

        assert description.name == "tensorrt_llm"
        assert description.max_concurrency == LIMITS["max_batch_size"]
        assert description.context_length == 8192
        assert description.vocabulary_size == SMALL_SIZE
        assert description.refused == {"top_logprobs"}
        assert description.ceilings == {"top_k": 1024}

    async def test_the_engine_is_loaded_with_its_own_limits(
        self, start: Start, build: Build, loaded_with: Mapping[str, Any]
    ) -> None:
        limits: dict[str, Any] = {
            "max_batch_size": 7,
            "max_num_tokens": 2048,
            "max_seq_len": 5000,
            "max_input_len": 900,
        }
        engine = build(**limits)

        await start(engine, max_concurrency=3)

        assert {name: loaded_with[name] for name in limits} == limits
        assert loaded_with["max_beam_width"] == 1
        assert loaded_with["guided_decoding_backend"] == "xgrammar"

    @pytest.mark.parametrize("paged", [True, False])
    async def test_kv_reuse_and_chunked_prefill_are_on_if_the_build_allows(
        self, start: Start, build: Build, loaded_with: Mapping[str, Any], paged: bool
    ) -> None:
        engine = build(paged_context_fmha=paged)

        await start(engine)

        assert loaded_with["enable_chunked_prefill"] is paged
        assert loaded_with["kv_cache_config"].enable_block_reuse is paged

    async def test_without_chunked_prefill_a_prompt_must_fit_one_step(
        self, start: Start, build: Build
    ) -> None:
        limits: dict[str, Any] = {"max_seq_len": 8192, "max_num_tokens": 4096}
        whole = build("whole", paged_context_fmha=False, **limits)
        cut = build("cut", paged_context_fmha=True, **limits)

        assert "context_length: found 4097, expected at most the engine's 4096" in await refusal(
            start, whole, context_length=4097
        )
        assert (await start(cut, context_length=8192)).context_length == 8192

    async def test_two_ranks_are_loaded(self, start: Start, build: Build) -> None:
        assert await start(build(tp_size=2))

    async def test_an_error_of_the_library_is_one_line(self, start: Start, build: Build) -> None:
        message = "[TensorRT-LLM][ERROR] CUDA runtime error: out of memory\n  1  0x7f00\n  2  0x7f01"
        engine = build(script={"refuse_to_load": message})

        error = await refusal(start, engine)

        assert "cannot load" in error
        assert "out of memory" in error
        assert "0x7f" not in error

    async def test_a_generation_before_the_start_fails(self, engine: Path) -> None:
        backend = TensorRtLlmBackend(engine, Vocabulary(), context_length=4096)

        with pytest.raises(EngineDeadError):
            await collect(backend, request([1, 2, 3]))


class TestGrammars:
    async def test_an_engine_without_a_fast_tokenizer_is_served_without_grammars(
        self, start: Start, engine: Path, loaded_with: Mapping[str, Any]
    ) -> None:
        """With grammar support the library would not load the engine, even if no request has a grammar."""
        description = await start(with_slow_tokenizer(engine))

        assert "guided_decoding_backend" not in loaded_with
        assert description.refused == {"grammar", "top_logprobs"}

    async def test_grammars_are_off_if_the_tokenizer_cannot_be_inspected(
        self, start: Start, engine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)

        assert (await start(engine)).refused == {"grammar", "top_logprobs"}


class TestHome:
    """Importing the library creates flashinfer's cache below the home directory."""

    async def test_an_engine_is_served_with_a_read_only_home(
        self, start: Start, engine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forget_the_double(monkeypatch, DOUBLE)
        monkeypatch.setenv("HOME", "/dev/null/nobody")
        # The service sets this variable; monkeypatch restores it.
        monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", "")

        assert await start(engine)

    def test_the_cache_is_moved_only_if_necessary(self, tmp_path: Path) -> None:
        assert writable_workspace({"HOME": str(tmp_path / "new")}) == {}
        assert writable_workspace({"HOME": "/dev/null", "FLASHINFER_WORKSPACE_BASE": str(tmp_path)}) == {}
        for nowhere in ({"HOME": "/dev/null/nobody"}, {"FLASHINFER_WORKSPACE_BASE": "/dev/null/x"}):
            moved = writable_workspace(nowhere)["FLASHINFER_WORKSPACE_BASE"]
            assert Path(moved).parent.is_dir()


class TestLibrary:
    async def test_a_missing_library_is_reported(
        self, start: Start, engine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forget_the_double(monkeypatch)

        assert "TensorRT-LLM is not installed" in await refusal(start, engine)

    async def test_a_broken_library_is_reported(
        self, start: Start, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "path" / "tensorrt_llm"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(
            'raise ImportError("libnvinfer.so.10: cannot open shared object file")'
        )
        forget_the_double(monkeypatch, package.parent)

        assert "cannot be imported: libnvinfer.so.10" in await refusal(start, engine)

    @pytest.mark.parametrize("version", ["1.2.0", "1.3.0", "1.3.0rc15", "0.21.0", "1.2.1rc2", "unknown"])
    async def test_other_versions_are_refused(
        self, start: Start, engine: Path, double: Any, monkeypatch: pytest.MonkeyPatch, version: str
    ) -> None:
        monkeypatch.setattr(double, "__version__", version)

        assert f"TensorRT-LLM {version} is installed; engines are served by >=1.2.1,<1.3" in await refusal(
            start, engine
        )

    async def test_a_missing_field_that_serving_needs_is_named(
        self, start: Start, engine: Path, double: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            double, "SamplingParams", sampling_params_without(double.SamplingParams, "seed", "top_k")
        )

        assert "lacks seed, top_k" in await refusal(start, engine)

    @pytest.mark.parametrize(
        ("missing", "refused"),
        [
            ("prompt_ignore_length", {"presence_penalty", "frequency_penalty"}),
            ("min_p", {"min_p"}),
            ("repetition_penalty", {"repetition_penalty"}),
            ("embedding_bias", {"logit_bias"}),
            ("guided_decoding", {"grammar"}),
            ("_return_log_probs", {"logprobs"}),
        ],
    )
    async def test_parameters_that_lack_a_field_are_refused_by_name(
        self, start: Start, engine: Path, monkeypatch: pytest.MonkeyPatch, missing: str, refused: set[str]
    ) -> None:
        """Without this field penalties would count the prompt."""
        double = import_module("tensorrt_llm")
        monkeypatch.setattr(double, "SamplingParams", sampling_params_without(double.SamplingParams, missing))

        assert (await start(engine)).refused == refused | {"top_logprobs"}

    @pytest.mark.parametrize(("package", "refused"), [("torch", "logit_bias"), ("xgrammar", "grammar")])
    async def test_parameters_that_lack_a_package_are_refused_by_name(
        self, start: Start, engine: Path, monkeypatch: pytest.MonkeyPatch, package: str, refused: str
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)

        assert (await start(engine)).refused == {refused, "top_logprobs"}

    async def test_constraints_are_refused_if_the_library_supports_no_grammars(
        self,
        start: Start,
        engine: Path,
        loaded_with: Mapping[str, Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        api = import_module("tensorrt_llm.llmapi")
        guides = sampling_params_without(api.GuidedDecodingParams, "grammar")
        monkeypatch.setattr(api, "GuidedDecodingParams", guides)

        assert (await start(engine)).refused == {"grammar", "top_logprobs"}
        assert "guided_decoding_backend" not in loaded_with


class TestPreflight:
    """These checks do not import the library, which is missing."""

    @pytest.fixture(autouse=True)
    def no_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        forget_the_double(monkeypatch)

    @pytest.mark.parametrize(
        ("field", "value", "error"),
        [
            ("version", "1.1.0", "version: found 1.1.0, expected a TensorRT-LLM >=1.2.1,<1.3"),
            ("version", None, "version: is missing"),
            ("pretrained_config.mapping.world_size", 2, "world_size: found 2, expected tp_size x pp_size"),
            ("pretrained_config.vocab_size", 200, "tokenizer.json: found 304 tokens, expected"),
            ("build_config.kv_cache_type", "CONTINUOUS", "kv_cache_type: found CONTINUOUS, expected PAGED"),
            ("build_config.max_draft_len", 4, "max_draft_len: found 4, expected 0"),
            (
                "build_config.max_batch_size",
                0,
                "build_config.max_batch_size: found 0, expected a whole number",
            ),
            ("build_config.max_batch_size", "16", "build_config.max_batch_size: found 16, expected a whole"),
            (
                "build_config.max_seq_len",
                2048,
                "context_length: found 4096, expected at most the engine's 2048",
            ),
            (
                "build_config.plugin_config.use_paged_context_fmha",
                None,
                "is missing; it must be true or false",
            ),
            ("build_config", None, "expected that of a built engine"),
        ],
    )
    async def test_unsupported_values_in_config_json_are_refused(
        self, start: Start, engine: Path, field: str, value: object, error: str
    ) -> None:
        edit(engine, field, value)

        assert error in await refusal(start, engine)

    async def test_more_slots_than_the_engine_has_are_refused(self, start: Start, engine: Path) -> None:
        error = await refusal(start, engine, max_concurrency=17)

        assert "max_concurrency: found 17, expected at most the engine's 16" in error

    async def test_a_missing_rank_is_refused(self, start: Start, build: Build) -> None:
        engine = build(tp_size=4)
        (engine / "rank2.engine").unlink()

        assert "rank2.engine: is missing; it must be one plan for each of 4 ranks" in await refusal(
            start, engine
        )

    async def test_an_empty_rank_is_refused(self, start: Start, engine: Path) -> None:
        (engine / "rank0.engine").write_bytes(b"")

        assert "rank0.engine: found 0 bytes" in await refusal(start, engine)

    async def test_all_errors_are_reported_together(self, start: Start, engine: Path) -> None:
        edit(engine, "version", "0.9")
        (engine / "rank0.engine").unlink()

        error = await refusal(start, engine)

        assert all(name in error for name in ("version: found 0.9", "rank0.engine: is missing"))

    async def test_a_truncated_config_is_refused(self, start: Start, engine: Path) -> None:
        file = engine / "config.json"
        file.write_text(file.read_text()[:-20])

        assert "no valid JSON" in await refusal(start, engine)

    async def test_directories_without_an_engine_are_refused(self, start: Start, tmp_path: Path) -> None:
        assert "found no directory" in await refusal(start, tmp_path / "nowhere")
        assert "config.json: is missing" in await refusal(start, tmp_path)
        (tmp_path / "config.json").write_text('{"architecture": "LlamaForCausalLM", "dtype": "bfloat16"}')
        assert "that of a TensorRT-LLM checkpoint" in await refusal(start, tmp_path)

    async def test_a_plan_that_differs_from_the_manifest_is_refused(self, start: Start, engine: Path) -> None:
        """The checks are those of `lodestream engine verify`, without hashing plans."""
        adopt(engine, runtime=Runtime())
        with (engine / "rank0.engine").open("a") as file:
            file.write(" ")

        assert "rank0.engine: found 3 bytes, expected 2 bytes" in await refusal(start, engine)

    async def test_a_template_that_differs_from_the_manifest_is_refused(
        self, start: Start, engine: Path
    ) -> None:
        adopt(engine, runtime=Runtime())
        (engine / "chat_template.jinja").write_text("{{ messages }}")

        assert "chat_template: found sha256" in await refusal(start, engine)

    async def test_a_model_without_an_end_token_is_refused(self, start: Start, engine: Path) -> None:
        error = await refusal(start, engine, Vocabulary(eos_ids=frozenset()))

        assert "no token ends a generation" in error


async def test_an_engine_of_another_release_than_the_installed_one_is_refused(
    start: Start, engine: Path, double: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both releases are supported, but an engine runs only on its own."""
    edit(engine, "version", "1.2.2")

    assert "version: found 1.2.2, expected the installed TensorRT-LLM, 1.2.1" in await refusal(start, engine)
