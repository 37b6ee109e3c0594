from __future__ import annotations

from pathlib import Path

import pytest

from inference_service.models import catalog
from inference_service.models.files import ModelError, sha256_of
from inference_service.models.loader import ModelFile, resolve


def test_a_catalog_model_is_found_by_its_id(model_file: ModelFile) -> None:
    model = catalog.find(catalog.SMALL_ID)

    assert model is not None
    assert model_file.id == model.id == "smollm2-135m-instruct"
    assert model_file.sha256 == sha256_of(model_file.path) == model.sha256
    assert model_file.path.name == model.file_name


def test_a_model_file_is_served_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "My Model.Q4_K_M.gguf"
    path.write_bytes(b"GGUF")

    found = resolve(str(path), tmp_path / "cache", show_progress=False)

    assert found == ModelFile("my-model.q4_k_m", path, None)
    assert not (tmp_path / "cache").exists()


def test_a_path_may_begin_with_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")

    assert resolve("~/a.gguf", tmp_path, show_progress=False).path == tmp_path / "a.gguf"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Llama-3.1-8B-Instruct-Q4_K_M.gguf", "llama-3.1-8b-instruct-q4_k_m"),
        ("weird  näme (1).gguf", "weird-n-me-1"),
        ("模型.gguf", "model"),
    ],
)
def test_a_model_id_has_only_safe_characters(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()

    assert resolve(str(tmp_path / name), tmp_path, show_progress=False).id == expected


@pytest.mark.parametrize("reference", ["llama-3.1-8b", "./nowhere/model.gguf", ""])
def test_the_error_for_an_unknown_model_lists_the_catalog(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as raised:
        resolve(reference, tmp_path, show_progress=False)

    assert "smollm2-135m-instruct" in str(raised.value)
    assert "hf://owner/repo/file.gguf" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_directory_is_refused_as_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a directory: give --model the path of the GGUF file"):
        resolve(str(tmp_path), tmp_path, show_progress=False)
