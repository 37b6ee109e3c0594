"""Reads the model of an engine directory: its limits, chat template, and tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer as LibraryTokenizer

from engines.facts.engine_directory import EngineConfig, UnreadableConfigError, read_engine_config
from engines.facts.tokenizer_files import TOKENIZER_FILE, TokenizerFiles, TokenizerUnreadableError
from inference_service.backends.tensorrt_llm.engine import longest_request
from inference_service.models.bpe import ByteLevelEncoder, encode_plain
from inference_service.models.files import ModelError
from inference_service.models.vocabulary import END_TEXTS, TokenType
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
    """The model's name in the manifest, or the directory's own name."""
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


class TokenizerJson:
    """A parsed tokenizer.json of a byte-level BPE.

    Args:
        path: the file, for messages.
        document: its content.

    Raises:
        ModelError: it is damaged, or of another kind.

    """

    def __init__(self, path: Path, document: Mapping[str, Any]) -> None:
        self._path = path
        self._document = document
        try:
            self._check_kind()
            self._added = [
                (str(t["content"]), int(t["id"]), bool(t["special"])) for t in self._document["added_tokens"]
            ]
            self._words: dict[str, int] = self._document["model"]["vocab"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"{path} is no tokenizer that is understood ({error!r}): copy it again."
            ) from error

    def ids_of(self, texts: Sequence[str]) -> frozenset[int]:
        """The ids of those of the texts that are added tokens."""
        return frozenset(index for text, index, _ in self._added if text in texts)

    def build(self, *, bos_token: str | None, eos_ids: frozenset[int]) -> Tokenizer:
        """Build the tokenizer, for text in which callers cannot write a control token.

        Args:
            bos_token: the token that begins a text, as it is written.
            eos_ids: tokens that end a generation.

        """
        encoder = _Encoder(self._without_added())
        bos_id = next(iter(self.ids_of([bos_token]) if bos_token else ()), None)
        return Tokenizer(
            encoder,
            pieces=self._pieces(),
            control_tokens={text: index for text, index, special in self._added if special},
            added_tokens={text: index for text, index, special in self._added if not special},
            bos_id=bos_id,
            eos_ids=eos_ids,
            add_bos=bos_id is not None and encoder.prefix == [bos_id],
        )

    def _check_kind(self) -> None:
        kind = self._document["model"]["type"]
        steps = {step["type"] for step in _flat(self._document["pre_tokenizer"], "pretokenizers")}
        if kind != "BPE" or "ByteLevel" not in steps:
            raise ModelError(f"{self._path} holds a tokenizer of kind {kind}; served is: byte-level BPE.")

    def _without_added(self) -> bytes:
        """The document without its added tokens, so that texts which spell them stay plain text."""
        added = {text for text, _, _ in self._added}
        if added.isdisjoint(self._words):
            return orjson.dumps({**self._document, "added_tokens": []})
        model = self._document["model"]
        words = {text: index for text, index in self._words.items() if text not in added}
        merges = [merge for merge in model["merges"] if words.keys() >= _parts(merge)]
        model = {**model, "vocab": words, "merges": merges}
        return orjson.dumps({**self._document, "model": model, "added_tokens": []})

    def _pieces(self) -> list[bytes]:
        pieces = dict.fromkeys(range(self._size()), b"")
        pieces |= {i: ByteLevelEncoder.piece(text, TokenType.NORMAL) for text, i in self._words.items()}
        pieces |= {index: b"" if special else text.encode() for text, index, special in self._added}
        return list(pieces.values())

    def _size(self) -> int:
        return 1 + max([*self._words.values(), *(index for _, index, _ in self._added)])


class _Encoder:
    """The library's part."""

    def __init__(self, document: bytes) -> None:
        self._library: Any = LibraryTokenizer.from_buffer(document)
        self.prefix: list[int] = self._library.encode("").ids
        """The ids that the tokenizer puts before a text."""

    def encode(self, text: str) -> list[int]:
        return encode_plain(self._library, text)


def _flat(step: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a sequence, or the one step that there is."""
    if step is None:
        return
    if step["type"] == "Sequence":
        for inner in step[name]:
            yield from _flat(inner, name)
    else:
        yield step


def _parts(merge: str | Sequence[str]) -> set[str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return {left, right, left + right}
