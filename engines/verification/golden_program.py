"""Runs a few prompts on a new engine with greedy decoding. Run as `golden.py ENGINE QUESTIONS ANSWERS`.

QUESTIONS is a JSON object of `prompts`, `max_tokens` and `stop_ids`; ANSWERS becomes a JSON array of
`prompt`, `prompt_ids` and `ids`. TensorRT-LLM and the library `tokenizers`, which it brings along, have to be
there.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main(directory: Path, questions_file: Path, answers_file: Path) -> None:
    """Load, ask, write down, unload."""
    questions = json.loads(questions_file.read_text(encoding="utf-8"))
    llm = load(directory)
    try:
        answers = asyncio.run(ask(llm, directory, questions))
    finally:
        llm.shutdown()
    answers_file.write_text(json.dumps(answers), encoding="utf-8")


def load(directory: Path) -> Any:
    """Load the engine with its own limits: the defaults may exceed them, which is an error."""
    build = json.loads((directory / "config.json").read_text(encoding="utf-8"))["build_config"]
    names = ("max_batch_size", "max_num_tokens", "max_seq_len", "max_input_len", "max_beam_width")
    reuse = build["plugin_config"]["use_paged_context_fmha"]
    return import_module("tensorrt_llm._tensorrt_engine").LLM(
        model=str(directory),
        kv_cache_config=import_module("tensorrt_llm.llmapi").KvCacheConfig(enable_block_reuse=reuse),
        **{name: build[name] for name in names},
    )


async def ask(llm: Any, directory: Path, questions: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask one prompt after the other, so that none changes another's batch."""
    tokenizer = import_module("tokenizers").Tokenizer.from_file(str(directory / "tokenizer.json"))
    answers = []
    for prompt in questions["prompts"]:
        prompt_ids = tokenizer.encode(prompt).ids
        ids = await answer(llm, prompt_ids, questions["max_tokens"], questions["stop_ids"])
        answers.append({"prompt": prompt, "prompt_ids": prompt_ids, "ids": ids})
    return answers


async def answer(llm: Any, prompt_ids: list[int], max_tokens: int, stop_ids: list[int]) -> list[int]:
    """The likeliest tokens after a prompt."""
    sampling = import_module("tensorrt_llm").SamplingParams(
        max_tokens=max_tokens,
        end_id=stop_ids[0] if stop_ids else -1,
        pad_id=stop_ids[0] if stop_ids else 0,
        stop_token_ids=stop_ids or None,
        temperature=1.0,
        top_k=1,
        seed=0,
        detokenize=False,
        add_special_tokens=False,
    )
    ids: list[int] = []
    async for result in llm.generate_async(inputs=prompt_ids, sampling_params=sampling, streaming=True):
        # The list is cumulative, and changed in place.
        ids = list(result.outputs[0].token_ids)
    return ids


# The engine starts processes that load this file again.
if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
