"""Models on a Hugging Face hub, fetched by `huggingface_hub` under its own environment variables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inference_service.models.errors import ModelError

SCHEME = "hf://"


@dataclass(frozen=True, slots=True)
class HubReference:
    """One file of a hub repository."""

    repository: str
    """As `owner/name`."""
    file: str
    """Path inside the repository."""
    revision: str | None
    """Branch, tag or commit; None: the default branch."""


def parse(reference: str) -> HubReference:
    """Read `hf://owner/repo/path/file.gguf[@revision]`.

    Raises:
        ModelError: it has another form.

    """
    location, _, revision = reference.removeprefix(SCHEME).partition("@")
    parts = location.split("/", 2)
    if len(parts) < 3 or not all(parts) or not location.lower().endswith(".gguf"):
        raise ModelError(f"{reference} names no GGUF file: write hf://owner/repo/file.gguf or ...@revision.")
    return HubReference(f"{parts[0]}/{parts[1]}", parts[2], revision or None)


def cached_file(reference: HubReference, cache_dir: Path, *, show_progress: bool) -> Path:
    raise NotImplementedError
