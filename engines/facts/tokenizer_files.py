"""Reads the tokenizer files of a model: vocabulary, special tokens, chat template, stop ids.

Hugging Face checkpoints have them beside the weights; an engine that is served needs them beside its plans.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from engines.errors import NOTHING, Count, Document, EngineError, Positive, Sha256, shown

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
GENERATION_FILE = "generation_config.json"
TEMPLATE_FILE = "chat_template.jinja"

_FILE_NAMES = ("tokenizer*", "special_tokens_map.json", GENERATION_FILE, TEMPLATE_FILE, "chat_template.json")


class TokenizerFacts(Document):
    """Identifies a tokenizer: two with the same facts behave the same."""

    sha256: Sha256
    """Of tokenizer.json."""
    vocabulary_size: Positive
    """One more than the highest id."""
    chat_template_sha256: Sha256 | None
    """Of the template's text, wherever it stands; None: the model has none."""
    stop_ids: tuple[Count, ...]
    """Tokens that end an answer, ascending: of generation_config.json, and the tokenizer's own end."""


class TokenizerUnreadableError(EngineError):
    """Expected: a file of the tokenizer is missing or damaged. The message is one line.

    Args:
        file: its name.
        found: what is there instead.

    """

    def __init__(self, file: str, found: str) -> None:
        self.is_missing = found == NOTHING
        super().__init__(f"{file} is missing" if self.is_missing else f"{file}: found {found}")
        self.file = file
        self.found = found


def tokenizer_files(directory: Path) -> tuple[Path, ...]:
    """List the files that an engine needs beside it to be served, as far as they exist. Sorted."""
    return tuple(sorted({path for name in _FILE_NAMES for path in directory.glob(name) if path.is_file()}))


def read_tokenizer(directory: Path) -> TokenizerFacts:
    """Identify the tokenizer of a directory.

    Raises:
        TokenizerUnreadableError: tokenizer.json is missing, or one of the files is damaged.

    """
    files = TokenizerFiles(directory)
    try:
        return files.facts
    except (AttributeError, KeyError, TypeError, ValueError):
        found = "a tokenizer whose files are of another shape"
        raise TokenizerUnreadableError(TOKENIZER_FILE, found) from None


class TokenizerFiles:
    """The files of one directory; each is read when it is first asked for.

    Args:
        directory: of a checkpoint or an engine.

    Every property raises TokenizerUnreadableError where its file is damaged. A missing file counts as empty;
    only tokenizer.json has to exist.

    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @cached_property
    def text(self) -> str:
        """Content of tokenizer.json."""
        text = self._read(TOKENIZER_FILE)
        if text is None:
            raise TokenizerUnreadableError(TOKENIZER_FILE, NOTHING)
        return text

    @cached_property
    def document(self) -> dict[str, Any]:
        """tokenizer.json, parsed."""
        return _parse(TOKENIZER_FILE, self.text)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """tokenizer_config.json, parsed."""
        return self._optional(SETTINGS_FILE)

    @cached_property
    def chat_template(self) -> str | None:
        """Jinja source. A file of its own takes precedence over the setting."""
        alone = self._read(TEMPLATE_FILE)
        if alone is not None:
            return alone
        inside = self._optional("chat_template.json").get("chat_template")
        template = inside or self.settings.get("chat_template")
        if isinstance(template, list):
            template = next((t.get("template") for t in template if t.get("name") == "default"), None)
        return template if isinstance(template, str) else None

    @cached_property
    def generation_stop_ids(self) -> frozenset[int]:
        """The ends that generation_config.json names; none where it is missing."""
        named = self._optional(GENERATION_FILE).get("eos_token_id")
        ids = named if isinstance(named, list) else [] if named is None else [named]
        if any(type(index) is not int or index < 0 for index in ids):
            raise TokenizerUnreadableError(GENERATION_FILE, f"eos_token_id {shown(named)}")
        return frozenset(ids)

    @property
    def facts(self) -> TokenizerFacts:
        added = {token["content"]: token["id"] for token in self.document.get("added_tokens") or ()}
        own = added.get(self.special_token("eos_token"))
        template = self.chat_template
        return TokenizerFacts(
            sha256=_sha256(self.text),
            vocabulary_size=1 + max((*_vocabulary_ids(self.document), *added.values())),
            chat_template_sha256=None if template is None else _sha256(template),
            stop_ids=tuple(sorted(self.generation_stop_ids | ({own} if own is not None else set()))),
        )

    def special_token(self, name: str) -> str:
        """The text of a token that the settings name (`bos_token`, `eos_token`); empty for none."""
        token = self.settings.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        return text if isinstance(text, str) else ""

    def _optional(self, name: str) -> Mapping[str, Any]:
        text = self._read(name)
        return {} if text is None else _parse(name, text)

    def _read(self, name: str) -> str | None:
        try:
            return (self._directory / name).read_bytes().decode()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TokenizerUnreadableError(name, f"a file that cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise TokenizerUnreadableError(name, "bytes that are no UTF-8") from None


def _vocabulary_ids(document: Mapping[str, Any]) -> Iterator[int]:
    """The highest id of the vocabulary."""
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: the place is the id
        yield len(vocabulary) - 1
    elif isinstance(vocabulary, dict) and vocabulary:
        yield max(vocabulary.values())
    else:
        raise TokenizerUnreadableError(TOKENIZER_FILE, "no vocabulary")


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerUnreadableError(name, f"no valid JSON ({shown(str(error))})") from None
    if not isinstance(document, dict):
        raise TokenizerUnreadableError(name, "no JSON object")
    return document


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
