"""manifest.json beside an engine: everything about a build that config.json does not record.

The models below are its format; the JSON schema is made from them. `VERSION` is the version of the format:
names are added or changed only together with it.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from engines.errors import (
    NOTHING,
    Count,
    Document,
    DocumentError,
    FilledText,
    Finding,
    Moment,
    OptionalText,
    Positive,
    RelativePath,
    Seconds,
    Text,
    findings_of,
    shown,
)
from engines.facts.engine_directory import (
    MANIFEST_FILE,
    BuildLimits,
    FileFacts,
    Plugins,
    Quantization,
    Shape,
    Split,
)
from engines.facts.tokenizer_files import TokenizerFacts

SCHEMA = "lodestream.engine-manifest"
VERSION = 1

TokenIds = tuple[Count, ...]
Files = Annotated[
    dict[RelativePath, FileFacts],
    Field(json_schema_extra={"additionalProperties": False, "required": ["config.json"]}),
]


class Source(Document):
    """The checkpoint that the engine was built from."""

    checkpoint: FilledText
    """Its name: `meta-llama/Llama-3.1-8B-Instruct`, or that of its directory."""
    revision: OptionalText
    """The commit on the hub, where it is known."""


class Software(Document):
    """The versions that the engine was built with; None if unknown."""

    tensorrt_llm: FilledText
    tensorrt: OptionalText
    cuda: OptionalText
    driver: OptionalText


class BuildGpu(Document):
    """The GPU that the engine was built on."""

    name: Text
    sm: Positive
    """Compute capability without the dot."""
    memory_bytes: Positive


class Golden(Document):
    """A greedy answer of the engine right after its build."""

    prompt: Text
    prompt_ids: TokenIds
    ids: TokenIds


class BuildFacts(Document):
    """How the build went."""

    route: Literal["trtllm-build", "llm-api"]
    seconds: Seconds
    stages: dict[str, Seconds]
    """Seconds of each, in order."""


class Manifest(Document):
    """The whole document."""

    model_config = ConfigDict(
        title=f"{SCHEMA}, version {VERSION}: manifest.json of a TensorRT-LLM engine",
        json_schema_serialization_defaults_required=True,
    )

    schema_name: Annotated[Literal["lodestream.engine-manifest"], Field(alias="schema")] = (
        "lodestream.engine-manifest"
    )
    version: Literal[1] = 1
    model_id: FilledText
    """The name that the model is served under."""
    created_at: Moment
    """In UTC: `2026-11-22T16:54:24Z`."""
    origin: Literal["built", "adopted"]
    """Adopted: written later, for an engine that was built elsewhere."""
    source: Source
    software: Software
    gpu: BuildGpu | None
    model: Shape
    mapping: Split
    quantization: Quantization
    limits: BuildLimits
    """Read back from the config.json of the finished build, like `plugins`."""
    plugins: Plugins
    tokenizer: TokenizerFacts | None
    golden: tuple[Golden, ...]
    build: BuildFacts | None
    files: Files
    """By their paths below the directory; all but the manifest."""


class ManifestError(DocumentError):
    """Expected: there is a manifest.json, but it is not valid."""

    headline = f"{MANIFEST_FILE} is not as it must be"


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write it whole or not at all.

    Raises:
        ManifestError: the manifest is not valid.
        OSError: it cannot be written.

    """
    text = to_json(manifest)
    _parse(text)
    partial = directory / f".{MANIFEST_FILE}.partial"
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / MANIFEST_FILE)


def read_manifest(directory: Path) -> Manifest | None:
    """Read a directory's manifest; None where it has none.

    Raises:
        ManifestError: it is damaged, of another version, or not valid; lists every place.

    """
    try:
        text = (directory / MANIFEST_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _error("", f"a file that cannot be read ({error.strerror})", "the engine's manifest") from None
    except ValueError as error:
        raise _error("", f"no valid JSON ({shown(str(error))})", "a JSON object, complete") from None
    return _parse(text)


def to_json(manifest: Manifest) -> str:
    """Write it as one JSON object, indented, in a fixed order."""
    return json.dumps(manifest.model_dump(mode="json", by_alias=True, warnings=False), indent=2) + "\n"


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The JSON schema of this version."""
    document = Manifest.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def _parse(text: str) -> Manifest:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _error("", f"no valid JSON ({shown(str(error))})", "a JSON object, complete") from None
    names = document if isinstance(document, dict) else {}
    if names.get("schema") != SCHEMA:
        raise _error("schema", shown(names.get("schema")), SCHEMA)
    if type(names.get("version")) is not int or names["version"] != VERSION:
        raise _error("version", shown(names.get("version")), f"{VERSION}, the one that is read here")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ManifestError(findings_of(error, f"{MANIFEST_FILE}: ")) from None
    if "config.json" not in manifest.files:
        raise _error("files.config.json", NOTHING, "there, as files requires")
    return manifest


def _error(where: str, found: str, expected: str) -> ManifestError:
    return ManifestError([Finding(f"{MANIFEST_FILE}: {where}".removesuffix(": "), found, expected)])
