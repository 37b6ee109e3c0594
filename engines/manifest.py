"""manifest.json beside an engine: everything about a build that config.json does not say.

Its shape is manifest.schema.json, of which `VERSION` is the version: a document that the schema does not
allow is no manifest, and names are added or changed only together with the version.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from engines.engine_config import BuildLimits, Plugins, Quantization, Shape, Split
from engines.engine_files import MANIFEST_FILE, FileFacts
from engines.errors import EngineError
from engines.finding import Finding, in_lines, shown
from engines.json_schema import violations
from engines.tokenizer_files import TokenizerFacts

SCHEMA = "lodestream.engine-manifest"
VERSION = 1
SCHEMA_FILE = Path(__file__).with_name("manifest.schema.json")


@dataclass(frozen=True, slots=True)
class Source:
    """The checkpoint that the engine was built from."""

    checkpoint: str
    """Its name: `meta-llama/Llama-3.1-8B-Instruct`, or that of its directory."""
    revision: str | None
    """The commit on the hub, where it is known."""


@dataclass(frozen=True, slots=True)
class Software:
    """What the engine was built with; None where nobody knows."""

    tensorrt_llm: str
    tensorrt: str | None
    cuda: str | None
    driver: str | None


@dataclass(frozen=True, slots=True)
class BuildGpu:
    """The GPU that the engine was built on."""

    name: str
    sm: int
    """Compute capability without the dot."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Golden:
    """What the engine answered right after its build, without any randomness."""

    prompt: str
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """How the build went."""

    route: Literal["trtllm-build", "llm-api"]
    seconds: float
    stages: Mapping[str, float]
    """Seconds of each, in order."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of it."""

    model_id: str
    """The name that the model is served under."""
    created_at: str
    """In UTC: `2026-11-22T16:54:24Z`."""
    origin: Literal["built", "adopted"]
    """Adopted: written later, for an engine that somebody else built."""
    source: Source
    software: Software
    gpu: BuildGpu | None
    model: Shape
    mapping: Split
    quantization: Quantization
    limits: BuildLimits
    plugins: Plugins
    tokenizer: TokenizerFacts | None
    golden: tuple[Golden, ...]
    build: BuildFacts | None
    files: Mapping[str, FileFacts]
    """By their paths below the directory; all but the manifest."""


class ManifestError(EngineError):
    """Expected: there is a manifest.json, but it is none. The message is one line."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__(*in_lines(f"{MANIFEST_FILE} is not as it must be", findings))
        self.findings = findings


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write it whole or not at all.

    Raises:
        ManifestError: the manifest is not as its own schema wants it.
        OSError: it cannot be written.

    """
    text = to_json(manifest)
    _check(json.loads(text))
    partial = directory / f".{MANIFEST_FILE}.partial"
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / MANIFEST_FILE)


def read_manifest(directory: Path) -> Manifest | None:
    """Read a directory's manifest; None where it has none.

    Raises:
        ManifestError: it is damaged, of another version, or not as the schema wants it; names every place.

    """
    try:
        document = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _error("", f"a file that cannot be read ({error.strerror})", "the engine's manifest") from None
    except ValueError as error:
        raise _error("", f"no valid JSON ({shown(str(error))})", "a JSON object, complete") from None
    _check(document)
    return _from_document(document)


def to_json(manifest: Manifest) -> str:
    """Write it as one JSON object, indented, in a fixed order."""
    return json.dumps({"schema": SCHEMA, "version": VERSION, **asdict(manifest)}, indent=2) + "\n"


@lru_cache(maxsize=1)
def schema() -> Mapping[str, Any]:
    """The JSON schema of this version."""
    document: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return document


def _check(document: Any) -> None:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise _error("schema", shown(_get(document, "schema")), SCHEMA)
    if document.get("version") != VERSION:
        raise _error("version", shown(_get(document, "version")), f"{VERSION}, the one that is read here")
    findings = tuple(
        Finding(f"{MANIFEST_FILE}: {v.path}", shown(v.found), v.wanted)
        for v in violations(schema(), document)
    )
    if findings:
        raise ManifestError(findings)


def _get(document: Any, name: str) -> Any:
    return document.get(name) if isinstance(document, dict) else None


def _error(where: str, found: str, wanted: str) -> ManifestError:
    return ManifestError((Finding(f"{MANIFEST_FILE}: {where}".removesuffix(": "), found, wanted),))


def _from_document(document: Mapping[str, Any]) -> Manifest:
    gpu, tokenizer, build = document["gpu"], document["tokenizer"], document["build"]
    return Manifest(
        model_id=document["model_id"],
        created_at=document["created_at"],
        origin=document["origin"],
        source=Source(**document["source"]),
        software=Software(**document["software"]),
        gpu=BuildGpu(**gpu) if gpu else None,
        model=Shape(**document["model"]),
        mapping=Split(**document["mapping"]),
        quantization=Quantization(**document["quantization"]),
        limits=BuildLimits(**document["limits"]),
        plugins=Plugins(**document["plugins"]),
        tokenizer=TokenizerFacts(**{**tokenizer, "stop_ids": tuple(tokenizer["stop_ids"])})
        if tokenizer
        else None,
        golden=tuple(
            Golden(sample["prompt"], tuple(sample["prompt_ids"]), tuple(sample["ids"]))
            for sample in document["golden"]
        ),
        build=BuildFacts(**build) if build else None,
        files={name: FileFacts(**facts) for name, facts in document["files"].items()},
    )
