"""A KV cache that counts blocks and remembers prompts."""

from __future__ import annotations

from collections.abc import Sequence


class KvCache:
    """Admits a request only if its full length fits (GUARANTEED_NO_EVICT)."""

    def __init__(self, blocks: int, tokens_per_block: int, *, reuse: bool) -> None:
        self._blocks = blocks
        self._tokens_per_block = tokens_per_block
        self._reuse = reuse
        self._reused = 0
        self._taken: dict[int, int] = {}
        self._seen: set[tuple[str | None, tuple[int, ...]]] = set()

    def reserve(self, request_id: int, tokens: int) -> bool:
        needed = -(-tokens // self._tokens_per_block)
        if needed > self._blocks - sum(self._taken.values()):
            return False
        self._taken[request_id] = needed
        return True

    def free(self, request_id: int) -> None:
        self._taken.pop(request_id, None)

    def reuse(self, prompt_ids: Sequence[int], salt: str | None) -> None:
        """Count the cached blocks at the beginning of the prompt, never including its last token."""
        size = self._tokens_per_block
        ends = range(size, len(prompt_ids), size) if self._reuse else ()
        for end in ends:
            key = (salt, tuple(prompt_ids[:end]))
            self._reused += key in self._seen
            self._seen.add(key)

    def stats(self) -> dict[str, int]:
        used = sum(self._taken.values())
        return {
            "maxNumBlocks": self._blocks,
            "freeNumBlocks": self._blocks - used,
            "usedNumBlocks": used,
            "tokensPerBlock": self._tokens_per_block,
            "reusedBlocks": self._reused,
        }
