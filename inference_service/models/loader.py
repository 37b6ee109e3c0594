"""All that the service needs of a model beside the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import TemplateSyntaxError

from inference_service.generation.prompt import ChatTemplate
from inference_service.generation.tokenizer import Tokenizer
from inference_service.models.errors import ModelError
from inference_service.models.gguf_file import GgufModel, read_model
from inference_service.models.store import ModelFile
from inference_service.models.tokenizers import build_tokenizer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that can be talked to, once an engine runs it."""

    id: str
    path: Path
    gguf: GgufModel
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    """None: the model takes raw prompts only."""

    @property
    def context_length(self) -> int:
        """Most tokens that the model was made for."""
        return self.gguf.context_length


def load(file: ModelFile) -> LoadedModel:
    """Read a model's metadata and rebuild its tokenizer and chat template; no tensor is loaded.

    Raises:
        ModelError: the file is damaged, or holds a model that is not supported.

    """
    gguf = read_model(file.path)
    tokenizer = build_tokenizer(gguf.vocabulary)
    return LoadedModel(file.id, file.path, gguf, tokenizer, _chat_template(gguf, tokenizer))


def _chat_template(gguf: GgufModel, tokenizer: Tokenizer) -> ChatTemplate | None:
    if gguf.chat_template is None:
        return None
    try:
        return ChatTemplate(
            gguf.chat_template,
            tokenizer,
            bos_token=gguf.vocabulary.text_of(gguf.vocabulary.bos_id),
            eos_token=gguf.vocabulary.text_of(gguf.vocabulary.eos_id),
        )
    except TemplateSyntaxError as error:
        raise ModelError(
            f"The model {gguf.name} has a chat template that is not valid Jinja (line {error.lineno}: "
            f"{error.message}): fetch a newer conversion of the model."
        ) from error
