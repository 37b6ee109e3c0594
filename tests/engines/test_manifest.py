"""Manifests: the schema, writing and reading, and the record of a checkpoint."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from engines.building.record import copy_tokenizer, make_manifest, source_of
from engines.facts.engine_directory import engine_files, facts_of
from engines.facts.machine import Runtime
from engines.manifest import (
    BuildFacts,
    Golden,
    Manifest,
    ManifestError,
    Software,
    Source,
    read_manifest,
    schema,
    to_json,
    write_manifest,
)
from engines.verification.verify import verify
from tests.engines.engine_dirs import L4, STOP_IDS, VOCABULARY, machine, write_model, write_plain

OLD_ENGINE = Path(__file__).parent / "engine-of-version-1"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """A manifest with all optional parts."""
    directory = write_plain(tmp_path / "engine")
    copy_tokenizer(write_model(tmp_path / "model"), directory)
    return make_manifest(
        directory,
        Source(checkpoint="acme/tiny", revision=COMMIT),
        machine(L4),
        origin="built",
        golden=[Golden(prompt="Hi", prompt_ids=(1, 2), ids=(3, 4, 5))],
        build=BuildFacts(route="trtllm-build", seconds=12.5, stages={"quantize": 10.0, "build": 2.5}),
    )


def test_a_written_manifest_is_read_back(manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest)

    assert read_manifest(tmp_path) == manifest


def test_a_manifest_without_optional_parts_is_read_back(manifest: Manifest, tmp_path: Path) -> None:
    absent = {"gpu": None, "tokenizer": None, "golden": (), "build": None}
    software = Software(tensorrt_llm="1.2.1", tensorrt=None, cuda=None, driver=None)
    source = Source(checkpoint="tiny", revision=None)
    bare = manifest.model_copy(update={**absent, "source": source, "software": software})
    write_manifest(tmp_path, bare)

    assert read_manifest(tmp_path) == bare


def test_a_directory_without_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def test_a_manifest_that_violates_the_schema_is_not_written(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="model_id"):
        write_manifest(tmp_path, manifest.model_copy(update={"model_id": ""}))

    assert list(tmp_path.glob("*manifest*")) == []


def test_every_name_of_the_document_is_in_the_schema(manifest: Manifest) -> None:
    """Every name in the schema is also written."""

    def names(value: Any, part: Any) -> None:
        part = schema()["$defs"][part["$ref"].removeprefix("#/$defs/")] if "$ref" in part else part
        part = next((one for one in part.get("anyOf", ()) if one.get("type") != "null"), part)
        if "$ref" in part:
            names(value, part)
        elif "properties" in part:
            assert value.keys() == part["properties"].keys() == set(part["required"])
            assert part["additionalProperties"] is False
            for name, inner in part["properties"].items():
                names(value[name], inner)

    names(json.loads(to_json(manifest)), schema())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("created_at",), "yesterday"),
        (("origin",), "found"),
        (("gpu", "sm"), 0),
        (("gpu", "sm"), True),
        (("limits", "max_batch_size"), 1.5),
        (("tokenizer", "stop_ids"), [-1]),
        (("tokenizer", "sha256"), "A" * 64),
        (("files",), {}),
        (("files", "/etc/passwd"), {"size": 1, "sha256": "0" * 64}),
        (("files", "a/../../b"), {"size": 1, "sha256": "0" * 64}),
        (("golden",), [{"prompt": "x", "ids": []}]),
        (("build", "seconds"), "long"),
        (("build", "stages", "quantize"), -1),
    ],
)
def test_the_schema_refuses_invalid_documents(
    manifest: Manifest, tmp_path: Path, path: tuple[str, ...], value: object
) -> None:
    document = json.loads(to_json(manifest))
    jsonschema.validate(document, schema())
    changed = deepcopy(document)
    place = changed
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, schema())
    (tmp_path / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(ManifestError) as refused:
        read_manifest(tmp_path)

    assert refused.value.findings
    assert all(finding.field.startswith(f"manifest.json: {path[0]}") for finding in refused.value.findings)


def test_a_missing_name_is_found(manifest: Manifest, tmp_path: Path) -> None:
    """Every name is required, also those that may be null."""
    document = json.loads(to_json(manifest))
    for name in document.keys() - {"schema", "version"}:
        (tmp_path / "manifest.json").write_text(json.dumps({k: v for k, v in document.items() if k != name}))

        with pytest.raises(
            ManifestError, match=f"{name}: is missing; it must be there, as the document requires"
        ):
            read_manifest(tmp_path)


def test_a_manifest_of_the_first_release_is_still_read_and_verified() -> None:
    """The directory is from the first release and is never changed."""
    manifest = read_manifest(OLD_ENGINE)

    assert manifest is not None
    jsonschema.validate(json.loads((OLD_ENGINE / "manifest.json").read_text()), schema())
    assert (manifest.model_id, manifest.golden[0].ids) == ("acme/tiny", (3, 4, 5))
    assert verify(OLD_ENGINE, runtime=machine(L4)) == []
    assert to_json(manifest) == (OLD_ENGINE / "manifest.json").read_text()


def test_the_manifest_has_the_tokenizer(manifest: Manifest) -> None:
    assert manifest.tokenizer is not None
    assert manifest.tokenizer.vocabulary_size == VOCABULARY
    assert manifest.tokenizer.stop_ids == tuple(STOP_IDS)
    assert manifest.tokenizer.sha256 == manifest.files["tokenizer.json"].sha256
    assert manifest.tokenizer.chat_template_sha256 == manifest.files["chat_template.jinja"].sha256


def test_a_template_inside_the_settings_is_the_same_template(tmp_path: Path) -> None:
    from engines.facts.tokenizer_files import read_tokenizer

    model = write_model(tmp_path / "model")
    before = read_tokenizer(model).chat_template_sha256
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["chat_template"] = (model / "chat_template.jinja").read_text()
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "chat_template.jinja").unlink()

    assert read_tokenizer(model).chat_template_sha256 == before


def test_versions_of_another_installation_are_not_those_of_the_build(tmp_path: Path) -> None:
    directory = write_plain(tmp_path / "engine")
    other = machine(L4, tensorrt_llm="1.2.2")

    noted = make_manifest(directory, Source(checkpoint="x", revision=None), other, origin="adopted")

    assert noted.software == Software(tensorrt_llm="1.2.1", tensorrt=None, cuda=None, driver=None)


def test_files_are_all_but_the_manifest_and_hidden_ones(tmp_path: Path) -> None:
    for name in ("config.json", "manifest.json", ".hidden", "lora/0/weights.bin", ".git/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    assert engine_files(tmp_path) == ("config.json", "lora/0/weights.bin")
    assert facts_of(tmp_path / "config.json").size == 11


class TestSource:
    def test_a_checkpoint_in_the_hubs_cache_has_name_and_revision(self, tmp_path: Path) -> None:
        snapshot = tmp_path / "models--meta-llama--Llama-3.1-8B" / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)

        assert source_of(snapshot) == Source(checkpoint="meta-llama/Llama-3.1-8B", revision=COMMIT)

    def test_a_downloaded_directory_has_the_revision_that_the_client_noted(self, tmp_path: Path) -> None:
        notes = tmp_path / "tiny" / ".cache/huggingface/download"
        notes.mkdir(parents=True)
        (notes / "config.json.metadata").write_text(f"{COMMIT}\netag\n1.0\n")

        assert source_of(tmp_path / "tiny") == Source(checkpoint="tiny", revision=COMMIT)

    def test_without_a_known_revision_the_given_one_is_recorded(self, tmp_path: Path) -> None:
        (tmp_path / "tiny").mkdir()

        assert source_of(tmp_path / "tiny") == Source(checkpoint="tiny", revision=None)
        assert source_of(tmp_path / "tiny", "abc") == Source(checkpoint="tiny", revision="abc")


def test_without_a_gpu_the_manifest_has_none(tmp_path: Path) -> None:
    directory = write_plain(tmp_path / "engine")

    assert (
        make_manifest(directory, Source(checkpoint="x", revision=None), Runtime(), origin="adopted").gpu
        is None
    )
