"""What a service needs to know of a compiled engine's model: the files that lie beside the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.facts.engine_directory import EngineConfig, UnreadableConfigError, read_engine_config
from engines.facts.tokenizer_files import TOKENIZER_FILE, TokenizerFiles, TokenizerUnreadableError
from inference_service.backends.tensorrt_llm.loading import longest_request
from inference_service.models.files import ModelError
from inference_service.models.tokenizer_files import TokenizerJson
from inference_service.models.vocabulary import END_TEXTS
from inference_service.prompt.tokenizer import Tokenizer


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
    files = TokenizerFiles(directory)
    try:
        return _engine_model(directory, config, files)
    except TokenizerUnreadableError as error:
        raise ModelError(_unreadable(directory / error.file, error)) from None


def _engine_model(directory: Path, config: EngineConfig, files: TokenizerFiles) -> EngineModel:
    tokenizer = TokenizerJson(directory / TOKENIZER_FILE, files.document)
    bos, eos = files.special_token("bos_token"), files.special_token("eos_token")
    # Builds that lack generation_config.json end with what usually ends a text.
    ends = files.generation_stop_ids or tokenizer.ids_of(sorted(END_TEXTS))
    return EngineModel(
        name=served_name(directory),
        context_length=longest_request(config),
        tokenizer=tokenizer.build(bos_token=bos or None, eos_ids=ends | tokenizer.ids_of([eos])),
        chat_template=files.chat_template,
        bos_token=bos,
        eos_token=eos,
    )


def served_name(directory: Path) -> str:
    """What the directory's manifest calls the model, or the directory's own name."""
    named = _read_json(directory / "manifest.json").get("model_id")
    return named if isinstance(named, str) and named else directory.resolve().name


def _unreadable(path: Path, error: TokenizerUnreadableError) -> str:
    if error.is_missing:
        return f"There is no {path}: copy the model's {path.name} there."
    if error.found == "no JSON object":
        return f"{path} is no JSON object: copy it again."
    return f"{path} cannot be read ({error.found}): copy it again."


def _read_json(path: Path) -> Mapping[str, Any]:
    """A file that may be missing."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}): copy it again.") from error
    return document if isinstance(document, dict) else {}
