"""Requests as sampling fields of TensorRT-LLM, checked against the double's strict SamplingParams."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from inference_service.backends.tensorrt_llm.library import load_library
from inference_service.backends.tensorrt_llm.sampling import (
    FORBIDDEN,
    KEPT_TENSORS,
    MAX_TOP_K,
    BiasTensors,
    sampling_fields,
)
from inference_service.backends.types import EngineRequest, Sampling
from tests.inference_service.backends.contract import sampling

END_IDS = frozenset({128001, 128008, 128009})
PROMPT = (128000, 9906, 1917)


@pytest.fixture
def known(double: object) -> frozenset[str]:
    return load_library().fields


def fields_of(known: frozenset[str], chosen_by: Sampling, *, ignore_eos: bool = False) -> dict[str, Any]:
    return sampling_fields(EngineRequest("r", PROMPT, chosen_by, 100, ignore_eos), END_IDS, known)


def test_every_set_field_exists_in_the_library(double: Any, known: frozenset[str]) -> None:
    """No field that affects the choice of tokens has the library's default."""
    fields = fields_of(known, sampling(temperature=0.7))
    params = double.SamplingParams(**fields)

    deciding = {"temperature", "top_k", "top_p", "min_p", "seed", "max_tokens", "end_id", "n"}
    penalties = {"repetition_penalty", "presence_penalty", "frequency_penalty", "prompt_ignore_length"}
    assert fields.keys() >= deciding | penalties
    assert all(getattr(params, name) is not None for name in deciding | penalties)


def test_temperature_zero_takes_the_likeliest_token(double: Any, known: frozenset[str]) -> None:
    fields = fields_of(known, sampling(temperature=0, top_k=40, top_p=0.5, min_p=0.1))

    assert (fields["temperature"], fields["top_k"], fields["top_p"], fields["min_p"]) == (1.0, 1, None, 0.0)
    assert double.SamplingParams(**fields).is_greedy


@pytest.mark.parametrize("top_k", [0, 40])
def test_top_p_of_zero_takes_the_likeliest_token(double: Any, known: frozenset[str], top_k: int) -> None:
    """The engine treats a top_p of 0 as off if top_k is set."""
    fields = fields_of(known, sampling(temperature=0.7, top_p=0.0, top_k=top_k))

    assert fields["top_k"] == 1
    assert double.SamplingParams(**fields).is_greedy


def test_sampling_without_top_k_is_not_greedy(double: Any, known: frozenset[str]) -> None:
    """A top_k of 0 is off, with an explicit top_p; with both unset the engine would decode greedily."""
    fields = fields_of(known, sampling(temperature=0.7, top_p=1.0, top_k=0, seed=2**64 - 1))

    assert (fields["temperature"], fields["top_k"], fields["top_p"]) == (0.7, 0, 1.0)
    assert fields["seed"] == 2**64 - 1
    assert not double.SamplingParams(**fields).is_greedy
    assert double.SamplingParams(temperature=0.7).is_greedy


def test_penalties_exclude_the_prompt(known: frozenset[str]) -> None:
    chosen = sampling(presence_penalty=-1.5, frequency_penalty=0.5, repetition_penalty=1.2)
    fields = fields_of(known, chosen)

    assert fields["prompt_ignore_length"] == len(PROMPT)
    assert (fields["presence_penalty"], fields["frequency_penalty"]) == (-1.5, 0.5)
    assert fields["repetition_penalty"] == 1.2


def test_all_end_ids_are_sent_and_no_stop_words(known: frozenset[str]) -> None:
    fields = fields_of(known, sampling())

    assert fields["end_id"] in END_IDS
    assert set(fields["stop_token_ids"]) == END_IDS
    assert "stop" not in fields
    assert "bad" not in fields


def test_with_ignore_eos_no_end_ids_are_sent(double: Any, known: frozenset[str]) -> None:
    fields = fields_of(known, sampling(), ignore_eos=True)

    assert fields["ignore_eos"]
    assert fields["stop_token_ids"] is None
    assert fields["max_tokens"] == 100
    double.SamplingParams(**fields)


def test_token_ids_are_requested_without_text(known: frozenset[str]) -> None:
    fields = fields_of(known, sampling())

    assert fields["detokenize"] is False
    assert fields["n"] == 1


def test_fields_that_do_not_exist_are_not_sent() -> None:
    fields = fields_of(frozenset({"temperature", "top_k"}), sampling(temperature=0.7))

    assert fields == {"temperature": 0.7, "top_k": 0}


def test_the_largest_top_k_is_1024() -> None:
    assert MAX_TOP_K == 1024


@pytest.fixture
def torch(double: object) -> Any:
    """The part of PyTorch that the double has."""
    return import_module("torch")


def test_bias_is_a_number_for_every_token(torch: Any) -> None:
    tensor = BiasTensors(torch, 8).tensor({7: -99.5, 0: 100, 3: -100})

    assert tensor.dtype is torch.float32
    assert tensor.tolist() == [100.0, 0.0, 0.0, FORBIDDEN, 0.0, 0.0, 0.0, -99.5]


def test_the_bias_of_forbidden_tokens_fits_half_precision() -> None:
    """The sum with any logit must fit, too."""
    assert FORBIDDEN - 1000 > -65504


def test_same_bias_shares_a_tensor(torch: Any) -> None:
    biases = BiasTensors(torch, 8)

    assert biases.tensor({1: 2.0, 3: 4.0}) is biases.tensor({3: 4.0, 1: 2.0})
    assert biases.tensor({1: 2.0}) is not biases.tensor({1: 2.5})


def test_the_cache_of_biases_is_bounded(torch: Any) -> None:
    biases = BiasTensors(torch, 8)
    first = biases.tensor({1: -1.0})

    for value in range(KEPT_TENSORS):
        biases.tensor({1: float(value)})

    assert biases.tensor({1: -1.0}) is not first
