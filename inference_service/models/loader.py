"""Finds the file of a model by its name, and loads its metadata, tokenizer and chat template."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import TemplateSyntaxError

from inference_service.config import ServiceConfig
from inference_service.models import catalog, download, hub
from inference_service.models.bpe import build_tokenizer
from inference_service.models.engine_directory import read_engine_model
from inference_service.models.files import FetchStopped, ModelError, Progress
from inference_service.models.gguf import read_model
from inference_service.prompt.chat_template import ChatTemplate
from inference_service.prompt.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that is on this machine."""

    id: str
    """The id that requests name: characters of [a-z0-9._-]."""
    path: Path
    """A GGUF file, or an engine directory."""
    sha256: str | None
    """Hash of the content, in hex, where it was verified."""
    fallback_reason: str | None = None
    """Why this model is served in place of the default model; None if it is not a fallback."""


def configured(
    config: ServiceConfig, *, show_progress: bool, stop: threading.Event | None = None
) -> ModelFile:
    """Find the model that the settings name: an engine directory, what `resolve` finds, or the default.

    Raises:
        ModelError: it cannot be found, fetched or verified.

    """
    if config.engine is None:
        if config.model is None:
            return _default(config, show_progress=show_progress, stop=stop)
        return resolve(config.model, config.cache_dir, show_progress=show_progress, stop=stop)
    if not config.engine.is_dir():
        raise ModelError(
            f"There is no directory {config.engine}: give --engine the one that an engine build wrote."
        )
    from inference_service.models.engine_directory import served_name

    return ModelFile(_as_id(served_name(config.engine)), config.engine, None)


def resolve(
    reference: str, cache_dir: Path, *, show_progress: bool, stop: threading.Event | None = None
) -> ModelFile:
    """Find a model, fetching it first if need be.

    Args:
        reference: the id of a catalog model, a path to a GGUF file, or `hf://owner/repo/file.gguf`,
            with `@revision` behind it or without.
        cache_dir: where fetched models are kept; need not exist.
        show_progress: write a progress bar (on a terminal) or plain lines to stderr.
        stop: set from another thread, ends a fetch with a ModelError.

    Raises:
        ModelError: it cannot be found, fetched or verified.

    """
    progress = Progress(shown=show_progress, stop=stop)
    if model := catalog.find(reference):
        path = download.cached_model(model, cache_dir, progress)
        return ModelFile(model.id, path, model.sha256)
    if reference.startswith(hub.SCHEME):
        path = hub.cached_file(hub.parse(reference), cache_dir, progress)
    else:
        path = _local_file(reference)
    return ModelFile(model_id(path), path, None)


def _default(config: ServiceConfig, *, show_progress: bool, stop: threading.Event | None) -> ModelFile:
    """The default model, or the small one where the default cannot be had."""

    def get(model: str) -> ModelFile:
        return resolve(model, config.cache_dir, show_progress=show_progress, stop=stop)

    if config.backend == "simulated":
        # It only needs a tokenizer.
        return get(catalog.SMALL_ID)
    try:
        return get(catalog.DEFAULT_ID)
    except FetchStopped:
        raise
    except ModelError as error:
        reason = f"{catalog.DEFAULT_ID} cannot be had: {error}"
        Progress(shown=show_progress).say(f"{reason} Serving {catalog.SMALL_ID} instead.")
        return replace(get(catalog.SMALL_ID), fallback_reason=reason)


def model_id(path: Path) -> str:
    """The id under which a file is served: its stem in lower case, other characters turned to dashes."""
    return _as_id(path.stem)


def _as_id(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "model"


def _local_file(reference: str) -> Path:
    path = Path(reference).expanduser()
    if path.is_file():
        return path
    if reference and path.is_dir():
        raise ModelError(f"{reference} is a directory: give --model the path of the GGUF file inside it.")
    served = ", ".join(model.id for model in catalog.CATALOG)
    raise ModelError(
        f"There is no model {reference!r}: give --model one of the catalog ({served}), "
        "the path of a GGUF file, or hf://owner/repo/file.gguf."
    )


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model's metadata, tokenizer and chat template, without its engine."""

    id: str
    path: Path
    context_length: int
    """Most tokens that the model was trained for."""
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    """None: the model takes raw prompts only."""
    kv_bytes_per_token: int = 0
    """Memory that a token takes in the KV cache of the embedded engine."""


@dataclass(frozen=True, slots=True)
class _Template:
    """A chat template as a model carries it."""

    source: str | None
    bos_token: str
    eos_token: str


def load(file: ModelFile) -> LoadedModel:
    """Read a model's metadata and rebuild its tokenizer and chat template; no tensor is loaded.

    Raises:
        OperatorError: the file or directory is damaged, or holds a model that is not supported.

    """
    return _load_engine(file) if file.path.is_dir() else _load_gguf(file)


def _load_gguf(file: ModelFile) -> LoadedModel:
    gguf = read_model(file.path)
    words = gguf.vocabulary
    tokenizer = build_tokenizer(words)
    template = _Template(gguf.chat_template, words.text_of(words.bos_id), words.text_of(words.eos_id))
    return LoadedModel(
        file.id,
        file.path,
        gguf.context_length,
        tokenizer,
        _compile(template, tokenizer, gguf.name),
        gguf.kv_bytes_per_token,
    )


def _load_engine(file: ModelFile) -> LoadedModel:
    model = read_engine_model(file.path)
    template = _Template(model.chat_template, model.bos_token, model.eos_token)
    return LoadedModel(
        file.id,
        file.path,
        model.context_length,
        model.tokenizer,
        _compile(template, model.tokenizer, model.name),
    )


def _compile(template: _Template, tokenizer: Tokenizer, name: str) -> ChatTemplate | None:
    if template.source is None:
        return None
    try:
        return ChatTemplate(
            template.source, tokenizer, bos_token=template.bos_token, eos_token=template.eos_token
        )
    except TemplateSyntaxError as error:
        raise ModelError(
            f"The model {name} has a chat template that is not valid Jinja (line {error.lineno}: "
            f"{error.message}): fetch a newer conversion of the model."
        ) from error
