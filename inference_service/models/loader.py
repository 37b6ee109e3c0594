"""All that the service needs of a model beside the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import TemplateSyntaxError

from inference_service.generation.prompt import ChatTemplate
from inference_service.generation.tokenizer import Tokenizer
from inference_service.models.engine_directory import read_engine_model
from inference_service.models.errors import ModelError
from inference_service.models.gguf_file import read_model
from inference_service.models.store import ModelFile
from inference_service.models.tokenizers import build_tokenizer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that can be talked to, once an engine runs it."""

    id: str
    path: Path
    context_length: int
    """Most tokens that it was made for."""
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
