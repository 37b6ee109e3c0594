"""Whether the tokenizer beside the engine is the engine's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engines.engine_config import EngineConfig
from engines.finding import NOTHING, Finding
from engines.manifest import Manifest
from engines.tokenizer_files import TOKENIZER_FILE, TokenizerFacts, TokenizerUnreadableError, read_tokenizer

_LEAST_SHARE = 0.9
"""Matrices are padded a little beyond the tokenizer, never by this much."""


def check_tokenizer(
    directory: Path, config: EngineConfig | None, manifest: Manifest | None
) -> Iterator[Finding]:
    """Look at vocabulary, chat template and ends, as far as there is something to compare them with."""
    try:
        facts = read_tokenizer(directory)
    except TokenizerUnreadableError as error:
        missing = error.found == NOTHING
        excusable = missing and (manifest is None or manifest.tokenizer is None)
        wanted = "the model's tokenizer; `engine adopt --checkpoint DIR` copies it here"
        yield Finding(
            error.file,
            error.found,
            wanted if missing else "an intact file",
            "warning" if excusable else "error",
        )
        return
    if config is not None:
        yield from _check_vocabulary(facts, config.shape.vocab_size)
    yield from _check_ends(facts)
    if manifest is None or manifest.tokenizer is None:
        yield Finding("tokenizer", "no hash in a manifest", "one; see `engine adopt`", "unchecked")
    else:
        yield from _compare(facts, manifest.tokenizer)


def _check_vocabulary(facts: TokenizerFacts, size: int) -> Iterator[Finding]:
    if facts.vocabulary_size > size or facts.vocabulary_size < _LEAST_SHARE * size:
        yield Finding(TOKENIZER_FILE, f"{facts.vocabulary_size} tokens", f"the engine's vocab_size, {size}")


def _check_ends(facts: TokenizerFacts) -> Iterator[Finding]:
    if not facts.stop_ids:
        yield Finding("stop_ids", "none", "tokens that end an answer, in generation_config.json", "warning")
    for index in facts.stop_ids:
        if index >= facts.vocabulary_size:
            yield Finding("stop_ids", str(index), f"ids below {facts.vocabulary_size}, the tokenizer's")


def _compare(facts: TokenizerFacts, noted: TokenizerFacts) -> Iterator[Finding]:
    if facts.vocabulary_size != noted.vocabulary_size:
        wanted = f"the manifest's {noted.vocabulary_size}"
        yield Finding("tokenizer.vocabulary_size", str(facts.vocabulary_size), wanted)
    if facts.sha256 != noted.sha256:
        yield Finding("tokenizer", f"sha256 {facts.sha256}", f"the manifest's sha256 {noted.sha256}")
    if facts.chat_template_sha256 != noted.chat_template_sha256:
        yield Finding("chat_template", _hash(facts), f"the manifest's {_hash(noted)}")
    if facts.stop_ids != noted.stop_ids:
        yield Finding("stop_ids", _ids(facts), f"the manifest's {_ids(noted)}")


def _hash(facts: TokenizerFacts) -> str:
    return "none" if facts.chat_template_sha256 is None else f"sha256 {facts.chat_template_sha256}"


def _ids(facts: TokenizerFacts) -> str:
    return ", ".join(map(str, facts.stop_ids)) or "none"
