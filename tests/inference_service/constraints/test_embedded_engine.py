"""Grammars in the real engine: it accepts all of them, and its answers follow them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from inference_service.backends.base import Backend
from inference_service.backends.llama_cpp.backend import LlamaCppBackend
from inference_service.backends.types import EngineFinish, EngineRequest, Sampling
from inference_service.constraints.compiling import ConstraintKind, compile_constraint
from inference_service.constraints.grammar import Grammar
from inference_service.constraints.json_text import Whitespace
from inference_service.models.loader import ModelFile
from inference_service.prompt.tokenizer import Tokenizer
from tests.inference_service.constraints.derivation import matches
from tests.inference_service.constraints.schemas import SCHEMAS

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

MAX_TOKENS = 80
SLOTS = 8
QUESTION = "<|im_start|>user\nDescribe a cat in JSON.<|im_end|>\n<|im_start|>assistant\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(model_file: ModelFile, tokenizer: Tokenizer) -> AsyncIterator[Backend]:
    started = LlamaCppBackend(
        model_file.path, tokenizer, context_length=256, max_concurrency=SLOTS, threads=1, prefill_chunk=64
    )
    await started.start()
    yield started
    await started.close()


def _request(
    prompt: Sequence[int], grammar: Grammar, temperature: float, bias: dict[int, float]
) -> EngineRequest:
    sampling = Sampling(
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        repetition_penalty=1.0,
        seed=7,
        reproducible=True,
    )
    return EngineRequest(
        "grammar", prompt, sampling, MAX_TOKENS, ignore_eos=False, logit_bias=bias, grammar=grammar
    )


async def _answer(
    backend: Backend,
    tokenizer: Tokenizer,
    grammar: Grammar,
    temperature: float = 0.0,
    bias: dict[int, float] | None = None,
) -> tuple[str, EngineFinish | None]:
    prompt = tokenizer.encode_text(QUESTION)
    engine_request = _request(prompt, grammar, temperature, bias or {})
    steps = [step async for step in backend.generate(engine_request)]
    text = "".join(
        step.text if step.text is not None else tokenizer.decode(list(step.token_ids)) for step in steps
    )
    return text, steps[-1].finish


async def test_the_engine_follows_every_schema(backend: Backend, tokenizer: Tokenizer) -> None:
    slots = asyncio.Semaphore(SLOTS)

    async def ended(name: str) -> bool:
        grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMAS[name]))
        async with slots:
            text, finish = await _answer(backend, tokenizer, grammar)
        if finish is EngineFinish.END_OF_SEQUENCE:
            Draft202012Validator(SCHEMAS[name]).validate(json.loads(text))
            assert matches(grammar, text), name
        return finish is EngineFinish.END_OF_SEQUENCE

    endings = await asyncio.gather(*(ended(name) for name in SCHEMAS))
    assert sum(endings) >= len(SCHEMAS) * 2 / 3


@pytest.mark.parametrize("seed_schema", ["flat object", "oneOf by tag", "pattern with quotes", "uuid"])
async def test_the_engine_follows_a_schema_at_any_temperature(
    backend: Backend, tokenizer: Tokenizer, seed_schema: str
) -> None:
    grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMAS[seed_schema]))
    text, finish = await _answer(backend, tokenizer, grammar, temperature=2.0)
    assert finish is EngineFinish.END_OF_SEQUENCE
    Draft202012Validator(SCHEMAS[seed_schema]).validate(json.loads(text))


@pytest.mark.parametrize("whitespace", Whitespace)
async def test_the_engine_may_write_white_space(
    backend: Backend, tokenizer: Tokenizer, whitespace: Whitespace
) -> None:
    schema = json.dumps({"enum": [{"a": [1, True]}, {"b": []}]})
    grammar = compile_constraint(ConstraintKind.JSON_SCHEMA, schema, whitespace)
    (line,) = tokenizer.encode_text("\n")
    text, finish = await _answer(backend, tokenizer, grammar, bias={line: 12.0})

    assert ("\n" in text) is (whitespace is Whitespace.FLEXIBLE)
    assert finish is EngineFinish.MAX_TOKENS or matches(grammar, text)


async def test_the_end_token_comes_only_after_a_complete_text(backend: Backend, tokenizer: Tokenizer) -> None:
    grammar = compile_constraint(ConstraintKind.REGEX, "[a-z]{3}!")
    end = tokenizer.control_tokens["<|im_end|>"]
    text, finish = await _answer(backend, tokenizer, grammar, bias={end: 100.0})
    assert matches(grammar, text)
    assert finish is EngineFinish.END_OF_SEQUENCE


async def test_a_control_token_never_counts_as_text(backend: Backend, tokenizer: Tokenizer) -> None:
    """The engine compares the name of a control token with the grammar, and a character set may allow it."""
    grammar = compile_constraint(ConstraintKind.REGEX, "<[a-z|_]{1,12}>?")
    begin = tokenizer.control_tokens["<|im_start|>"]
    text, _ = await _answer(backend, tokenizer, grammar, bias={begin: 100.0})
    assert matches(grammar, text)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "" | "a"',
        "root ::= .{1,20}",
        'root ::= "日本" [\u0900-\u097f] "😀"',
        'root ::= [a-z]{300,700} "x"',
        'root ::= ("ab" | "c"){2,} ","',
        r'root ::= "\"\\\n\t[]^-" [\]\\^-]',
    ],
)
async def test_the_engine_follows_a_caller_s_grammar(
    backend: Backend, tokenizer: Tokenizer, grammar: str
) -> None:
    compiled = compile_constraint(ConstraintKind.GRAMMAR, grammar)
    text, finish = await _answer(backend, tokenizer, compiled)
    assert finish is EngineFinish.MAX_TOKENS or matches(compiled, text)


async def test_every_end_token_can_end_a_constrained_answer(backend: Backend, tokenizer: Tokenizer) -> None:
    """It can end as soon as the text is complete, even if the grammar allows more."""
    grammar = compile_constraint(ConstraintKind.REGEX, "(ab){1,30}")

    assert len(tokenizer.eos_ids) > 1
    for end_id in sorted(tokenizer.eos_ids):
        answer = await _answer(backend, tokenizer, grammar, bias={end_id: 100.0})
        assert answer == ("ab", EngineFinish.END_OF_SEQUENCE), end_id
