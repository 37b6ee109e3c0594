"""A model from an engine directory: names, limits, tokenizer and template."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from inference_service.config import ServiceConfig
from inference_service.models.engine_directory import EngineModel, read_engine_model
from inference_service.models.files import ModelError
from inference_service.models.loader import ModelFile, configured, load
from inference_service.prompt.conversation import ChatTurn
from tests.support.tensorrt import SMALL, make_engine

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Returns a function that creates an engine directory with the small tokenizer.

    None leaves a file out.
    """

    def make(name: str = "engine", **files: Any) -> Path:
        beside = tmp_path / f"{name}-files"
        beside.mkdir()
        documents = {
            "tokenizer": SMALL,
            "tokenizer_config": {"bos_token": "<s>", "eos_token": "<|eot_id|>"},
            "generation_config": {"eos_token_id": [301, 302]},
            **files,
        }
        for stem, document in documents.items():
            if isinstance(document, str):
                (beside / stem.replace("__", ".")).write_text(document)
            elif document is not None:
                (beside / f"{stem}.json").write_text(json.dumps(document))
        return make_engine(tmp_path / name, beside)

    return make


def changed(**parts: Any) -> Mapping[str, Any]:
    return {**SMALL, **parts}


def with_bos_processor() -> Mapping[str, Any]:
    begin = {"id": "<s>", "ids": [300], "tokens": ["<s>"]}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return changed(
        post_processor={
            "type": "TemplateProcessing",
            "single": single,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": begin},
        }
    )


class TestTokenizer:
    def test_texts_can_contain_added_tokens_but_no_special_ones(self, make: Make) -> None:
        """This holds also for a token that the vocabulary has twice."""
        tokenizer = read_engine_model(make()).tokenizer

        assert tokenizer.encode_text("ab ab") == [3, 2, 3]
        assert tokenizer.encode_text("ab[tag]ab") == [3, 303, 3]
        assert 300 not in tokenizer.encode_text("<s>ab")
        assert tokenizer.control_tokens == {"<s>": 300, "<|eot_id|>": 301, "<|end_of_text|>": 302}
        assert [tokenizer.token_bytes(index) for index in (0, 2, 4, 300, 303)] == [
            b"a",
            b" ",
            b"",
            b"",
            b"[tag]",
        ]
        assert tokenizer.vocabulary_size == 304

    @pytest.mark.parametrize(("document", "begun"), [(SMALL, [3]), (with_bos_processor(), [300, 3])])
    def test_a_prompt_begins_as_the_tokenizer_demands(
        self, make: Make, document: Mapping[str, Any], begun: list[int]
    ) -> None:
        assert read_engine_model(make(tokenizer=document)).tokenizer.encode_prompt("ab") == begun

    @pytest.mark.parametrize(
        ("files", "ends"),
        [
            ({}, {301, 302}),
            ({"generation_config": {"eos_token_id": 302}}, {301, 302}),
            ({"generation_config": None}, {301, 302}),
            ({"generation_config": {"eos_token_id": 3}, "tokenizer_config": None}, {3}),
        ],
    )
    def test_end_tokens_are_those_of_the_generation_config(
        self, make: Make, files: dict[str, Any], ends: set[int]
    ) -> None:
        """A build without one has the usual end tokens."""
        assert read_engine_model(make(**files)).tokenizer.eos_ids == ends

    @pytest.mark.parametrize(
        ("document", "error"),
        [
            (None, "There is no"),
            ('{"model": ', "cannot be read"),
            ("[]", "is no JSON object"),
            (changed(model={"type": "Unigram", "vocab": []}), "kind Unigram"),
            (changed(pre_tokenizer={"type": "Metaspace"}), "served is: byte-level BPE"),
            (changed(pre_tokenizer=None), "served is: byte-level BPE"),
            (changed(added_tokens=[{"id": 1}]), "no tokenizer that is understood"),
            ({"version": "1.0"}, "no tokenizer that is understood"),
        ],
    )
    def test_invalid_tokenizers_are_refused(self, make: Make, document: Any, error: str) -> None:
        files = (
            {"tokenizer__json": document, "tokenizer": None}
            if isinstance(document, str)
            else {"tokenizer": document}
        )

        with pytest.raises(ModelError, match=error) as caught:
            read_engine_model(make(**files))
        assert "tokenizer.json" in str(caught.value)
        assert "\n" not in str(caught.value)


class TestTemplate:
    @pytest.mark.parametrize(
        ("files", "source"),
        [
            ({"chat_template__jinja": "A"}, "A"),
            ({"tokenizer_config": {"chat_template": "B"}}, "B"),
            ({"tokenizer_config": {"chat_template": "B"}, "chat_template__jinja": "A"}, "A"),
            (
                {
                    "tokenizer_config": {
                        "chat_template": [
                            {"name": "tool_use", "template": "C"},
                            {"name": "default", "template": "D"},
                        ]
                    }
                },
                "D",
            ),
            ({"tokenizer_config": {"chat_template": []}}, None),
            ({}, None),
        ],
    )
    def test_a_template_is_read_from_its_own_file_or_from_the_tokenizer_config(
        self, make: Make, files: dict[str, Any], source: str | None
    ) -> None:
        assert read_engine_model(make(**files)).chat_template == source

    def test_tokens_in_the_tokenizer_config_may_be_objects(self, make: Make) -> None:
        config = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": {"content": "<|eot_id|>"}}
        directory = make(tokenizer_config=config, chat_template__jinja="{{ bos_token }}ab{{ eos_token }}")

        model = load(ModelFile("m", directory, None))

        assert model.chat_template is not None
        assert model.chat_template.render([ChatTurn("user", "x")]) == [300, 3, 301]

    def test_an_invalid_template_is_refused(self, make: Make) -> None:
        with pytest.raises(ModelError, match="not valid Jinja"):
            load(ModelFile("m", make(chat_template__jinja="{% for %}"), None))


class TestNames:
    @pytest.mark.parametrize(
        ("files", "served"),
        [
            ({}, "llama-3.1-8b-instruct"),
            ({"manifest": {"model_id": "Llama 3.1"}}, "llama-3.1"),
            ({"manifest": {"schema": 1}}, "llama-3.1-8b-instruct"),
        ],
    )
    def test_the_model_id_is_from_the_manifest_or_the_directory(
        self, make: Make, files: dict[str, Any], served: str
    ) -> None:
        directory = make("Llama-3.1-8B-Instruct", **files)

        found = configured(ServiceConfig(engine=directory), show_progress=False)

        assert (found.id, found.path) == (served, directory)

    def test_the_model_setting_counts_without_an_engine(self, tmp_path: Path) -> None:
        (tmp_path / "tiny.gguf").write_bytes(b"")

        assert configured(ServiceConfig(model=str(tmp_path / "tiny.gguf")), show_progress=False).id == "tiny"

    def test_a_missing_directory_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="give --engine"):
            configured(ServiceConfig(engine=tmp_path / "nowhere"), show_progress=False)


def test_the_context_length_is_that_of_the_build(make: Make) -> None:
    model = read_engine_model(make("small"))

    assert isinstance(model, EngineModel)
    assert model.context_length == 8192


def test_a_directory_without_an_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: is missing"):
        load(ModelFile("m", tmp_path, None))


class TestSettings:
    def test_an_engine_implies_its_backend(self, tmp_path: Path) -> None:
        assert ServiceConfig(engine=tmp_path).backend == "tensorrt_llm"
        assert ServiceConfig().backend == "llama_cpp"

    def test_an_engine_can_be_simulated(self, tmp_path: Path) -> None:
        """The simulated engine uses its tokenizer, limits and template without a GPU."""
        assert ServiceConfig(engine=tmp_path, backend="simulated").backend == "simulated"

    def test_backend_and_engine_must_go_together(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="see --engine"):
            ServiceConfig(backend="tensorrt_llm")
        with pytest.raises(ValueError, match="see --model"):
            ServiceConfig(backend="llama_cpp", engine=tmp_path)
