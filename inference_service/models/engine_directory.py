"""What a service needs to know of a compiled engine's model: the files that lie beside the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.engine_config import UnreadableConfigError, read_engine_config
from inference_service.backends.tensorrt_llm.preflight import longest_request
from inference_service.generation.tokenizer import Tokenizer
from inference_service.models.errors import ModelError
from inference_service.models.tokenizer_json import TOKENIZER_FILE, TokenizerJson
from inference_service.models.vocabulary import END_TEXTS

TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class EngineModel:
    """The model of an engine directory."""

    name: str
    context_length: int
    """Most tokens that the engine was built for."""
    tokenizer: Tokenizer
    chat_template: str | None
    """Jinja source."""
    bos_token: str
    """As it is written; empty for none."""
    eos_token: str


def read_engine_model(directory: Path) -> EngineModel:
    """Read an engine directory; the engine itself is not touched.

    Raises:
        ModelError: it is no engine directory, or a file of the tokenizer is missing, damaged, or of a kind
            that is not supported.

    """
    try:
        config = read_engine_config(directory)
    except UnreadableConfigError as error:
        raise ModelError(
            f"{directory} holds no engine that can be served: {error}: give --engine the directory that an "
            "engine build wrote.",
            error.details,
        ) from None
    tokenizer = TokenizerJson(directory / TOKENIZER_FILE)
    settings = _read_json(directory / "tokenizer_config.json")
    bos, eos = _token_text(settings.get("bos_token")), _token_text(settings.get("eos_token"))
    return EngineModel(
        name=served_name(directory),
        context_length=longest_request(config),
        tokenizer=tokenizer.build(bos_token=bos or None, eos_ids=_eos_ids(directory, tokenizer, eos)),
        chat_template=_chat_template(directory, settings),
        bos_token=bos,
        eos_token=eos,
    )


def served_name(directory: Path) -> str:
    """What the directory's manifest calls the model, or the directory's own name."""
    named = _read_json(directory / "manifest.json").get("model_id")
    return named if isinstance(named, str) and named else directory.resolve().name


def _eos_ids(directory: Path, tokenizer: TokenizerJson, eos_token: str) -> frozenset[int]:
    """The ends of generation_config.json; builds that lack it end with what usually ends a text."""
    named = _read_json(directory / "generation_config.json").get("eos_token_id")
    ids = named if isinstance(named, list) else [named]
    found = frozenset(index for index in ids if isinstance(index, int))
    return (found or tokenizer.ids_of(sorted(END_TEXTS))) | tokenizer.ids_of([eos_token])


def _chat_template(directory: Path, settings: Mapping[str, Any]) -> str | None:
    file = directory / TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        return _default_template(template)
    return template if isinstance(template, str) else None


def _default_template(named: Sequence[Mapping[str, str]]) -> str | None:
    return next((entry.get("template") for entry in named if entry.get("name") == "default"), None)


def _token_text(token: Any) -> str:
    """A token as tokenizer_config.json writes it: a text, or an object with one."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _read_json(path: Path) -> Mapping[str, Any]:
    """A file that may be missing."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}): copy it again.") from error
    return document if isinstance(document, dict) else {}
