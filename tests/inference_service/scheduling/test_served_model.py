"""Parameters that the loaded engine does not support are refused by name before the engine runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lodestream.inference.v1.generate_service_pb2 import GenerateRequest

from inference_service.backends.types import BackendDescription, Sampling
from inference_service.errors import InvalidRequest
from inference_service.prompt.tokenizer import Tokenizer
from inference_service.request.generate import parse_generate
from inference_service.scheduling.served_model import ServedModel
from inference_service.scheduling.workers import FairPool

OFF: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 0,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "seed": 1,
    "reproducible": False,
}
IN_USE: dict[str, Any] = {
    "top_k": 5,
    "min_p": 0.1,
    "frequency_penalty": -0.5,
    "presence_penalty": 2.0,
    "repetition_penalty": 0.9,
}


def served(tokenizer: Tokenizer, **abilities: Any) -> ServedModel:
    engine = BackendDescription("some engine", 100, 1, tokenizer.vocabulary_size, **abilities)
    pool = FairPool(1, "reader", 1000)
    return ServedModel("m", {}, tokenizer, None, engine, pool, pool)


def check(model: ServedModel, sampling: Sampling) -> None:
    parsed = parse_generate(GenerateRequest(model="m", prompt="x"))
    model.check(replace(parsed, sampling=sampling))


def violations(model: ServedModel, sampling: Sampling) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as caught:
        check(model, sampling)
    return [(violation.field, violation.code) for violation in caught.value.violations]


@pytest.mark.parametrize("name", IN_USE)
def test_an_unsupported_parameter_may_be_off_but_not_in_use(tokenizer: Tokenizer, name: str) -> None:
    model = served(tokenizer, refused=frozenset({name}))

    check(model, Sampling(**OFF))
    sampling = Sampling(**{**OFF, name: IN_USE[name]})
    assert violations(model, sampling) == [(f"sampling.{name}", "unsupported_parameter")]


def test_all_unsupported_parameters_are_named_together(tokenizer: Tokenizer) -> None:
    model = served(tokenizer, refused=frozenset(IN_USE))

    found = violations(model, Sampling(**{**OFF, **IN_USE}))

    assert found == [(f"sampling.{name}", "unsupported_parameter") for name in sorted(IN_USE)]


def test_an_engine_without_limits_accepts_everything(tokenizer: Tokenizer) -> None:
    check(served(tokenizer), Sampling(**{**OFF, **IN_USE, "top_k": 2**31 - 1}))


def test_a_value_above_the_engine_s_limit_is_refused(tokenizer: Tokenizer) -> None:
    model = served(tokenizer, ceilings={"top_k": 1024})

    check(model, Sampling(**{**OFF, "top_k": 1024}))
    assert violations(model, Sampling(**{**OFF, "top_k": 1025})) == [("sampling.top_k", "invalid_value")]
