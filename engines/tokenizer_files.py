"""The tokenizer beside an engine: what a server needs of it, read from its files alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import EngineError
from engines.finding import NOTHING, shown

TOKENIZER_FILE = "tokenizer.json"
_NAMES = (
    "tokenizer*",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """What two tokenizers that do the same have in common."""

    sha256: str
    """Of tokenizer.json."""
    vocabulary_size: int
    """One more than the highest id."""
    chat_template_sha256: str | None
    """Of the template's text, wherever it stands; None: the model has none."""
    stop_ids: tuple[int, ...]
    """Tokens that end an answer, ascending: of generation_config.json, and the tokenizer's own end."""


class TokenizerUnreadableError(EngineError):
    """Expected: a file of the tokenizer is missing or damaged. The message is one line.

    Args:
        file: its name.
        found: what is there instead.

    """

    def __init__(self, file: str, found: str) -> None:
        super().__init__(f"{file} is missing" if found == NOTHING else f"{file}: found {found}")
        self.file = file
        self.found = found


def tokenizer_files(directory: Path) -> tuple[Path, ...]:
    """What has to lie beside the engine so that it can be served, as far as it is there. Sorted."""
    return tuple(sorted({path for name in _NAMES for path in directory.glob(name) if path.is_file()}))


def read_tokenizer(directory: Path) -> TokenizerFacts:
    """Read what is known of a directory's tokenizer.

    Raises:
        TokenizerUnreadableError: tokenizer.json is missing, or one of the files is damaged.

    """
    text = _read(directory, TOKENIZER_FILE)
    if text is None:
        raise TokenizerUnreadableError(TOKENIZER_FILE, NOTHING)
    try:
        return _facts(directory, text)
    except (AttributeError, KeyError, TypeError):
        found = "a tokenizer whose files are of another shape"
        raise TokenizerUnreadableError(TOKENIZER_FILE, found) from None


def _facts(directory: Path, text: str) -> TokenizerFacts:
    document = _parse(TOKENIZER_FILE, text)
    settings = _optional(directory, "tokenizer_config.json")
    template = _chat_template(directory, settings)
    return TokenizerFacts(
        sha256=_sha256(text),
        vocabulary_size=1 + max((*_vocabulary(document), *_added(document).values())),
        chat_template_sha256=None if template is None else _sha256(template),
        stop_ids=_stop_ids(_optional(directory, "generation_config.json"), settings, document),
    )


def _vocabulary(document: Mapping[str, Any]) -> Iterator[int]:
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: the place is the id
        yield len(vocabulary) - 1
    elif isinstance(vocabulary, dict) and vocabulary:
        yield max(vocabulary.values())
    else:
        raise TokenizerUnreadableError(TOKENIZER_FILE, "no vocabulary")


def _added(document: Mapping[str, Any]) -> dict[str, int]:
    return {token["content"]: token["id"] for token in document.get("added_tokens") or ()}


def _stop_ids(
    generation: Mapping[str, Any], settings: Mapping[str, Any], document: Mapping[str, Any]
) -> tuple[int, ...]:
    named = generation.get("eos_token_id")
    ids = set(named if isinstance(named, list) else [] if named is None else [named])
    if any(type(index) is not int or index < 0 for index in ids):
        raise TokenizerUnreadableError("generation_config.json", f"eos_token_id {shown(named)}")
    token = settings.get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    own = _added(document).get(text) if isinstance(text, str) else None
    return tuple(sorted(ids if own is None else ids | {own}))


def _chat_template(directory: Path, settings: Mapping[str, Any]) -> str | None:
    """A file of its own goes before the setting."""
    alone = _read(directory, "chat_template.jinja")
    if alone is not None:
        return alone
    template = _optional(directory, "chat_template.json").get("chat_template") or settings.get(
        "chat_template"
    )
    if isinstance(template, list):
        template = next((t.get("template") for t in template if t.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _optional(directory: Path, name: str) -> Mapping[str, Any]:
    text = _read(directory, name)
    return {} if text is None else _parse(name, text)


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise TokenizerUnreadableError(name, f"no valid JSON ({shown(str(error))})") from None
    if not isinstance(document, dict):
        raise TokenizerUnreadableError(name, "no JSON object")
    return document


def _read(directory: Path, name: str) -> str | None:
    try:
        return (directory / name).read_bytes().decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokenizerUnreadableError(name, f"a file that cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise TokenizerUnreadableError(name, "bytes that are no UTF-8") from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
