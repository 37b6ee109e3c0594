"""A request in the words of TensorRT-LLM, checked against the double's strict SamplingParams."""

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


def test_library_knows_every_field_that_is_set(double: Any, known: frozenset[str]) -> None:
    """And nothing that decides a token is left to its defaults."""
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
    """The engine reads it as off when top_k is set."""
    fields = fields_of(known, sampling(temperature=0.7, top_p=0.0, top_k=top_k))

    assert fields["top_k"] == 1
    assert double.SamplingParams(**fields).is_greedy


def test_sampling_without_top_k_is_not_greedy(double: Any, known: frozenset[str]) -> None:
    """Off is 0 there, with top_p said explicitly: both unset would be greedy."""
    fields = fields_of(known, sampling(temperature=0.7, top_p=1.0, top_k=0, seed=2**64 - 1))

    assert (fields["temperature"], fields["top_k"], fields["top_p"]) == (0.7, 0, 1.0)
    assert fields["seed"] == 2**64 - 1
    assert not double.SamplingParams(**fields).is_greedy
    assert double.SamplingParams(temperature=0.7).is_greedy


def test_penalties_leave_the_prompt_out(known: frozenset[str]) -> None:
    chosen = sampling(presence_penalty=-1.5, frequency_penalty=0.5, repetition_penalty=1.2)
    fields = fields_of(known, chosen)

    assert fields["prompt_ignore_length"] == len(PROMPT)
    assert (fields["presence_penalty"], fields["frequency_penalty"]) == (-1.5, 0.5)
    assert fields["repetition_penalty"] == 1.2


def test_every_end_of_the_model_is_sent_and_no_stop_word(known: frozenset[str]) -> None:
    fields = fields_of(known, sampling())

    assert fields["end_id"] in END_IDS
    assert set(fields["stop_token_ids"]) == END_IDS
    assert "stop" not in fields
    assert "bad" not in fields


def test_ignoring_the_end_sends_none(double: Any, known: frozenset[str]) -> None:
    fields = fields_of(known, sampling(), ignore_eos=True)

    assert fields["ignore_eos"]
    assert fields["stop_token_ids"] is None
    assert fields["max_tokens"] == 100
    double.SamplingParams(**fields)


def test_ids_are_asked_for_and_no_text(known: frozenset[str]) -> None:
    fields = fields_of(known, sampling())

    assert fields["detokenize"] is False
    assert fields["n"] == 1


def test_fields_that_do_not_exist_are_not_sent() -> None:
    fields = fields_of(frozenset({"temperature", "top_k"}), sampling(temperature=0.7))

    assert fields == {"temperature": 0.7, "top_k": 0}


def test_more_likely_tokens_than_the_engine_keeps_are_not_promised() -> None:
    assert MAX_TOP_K == 1024


@pytest.fixture
def torch(double: object) -> Any:
    """As much of PyTorch as the double has."""
    return import_module("torch")


def test_bias_is_a_number_for_every_token(torch: Any) -> None:
    tensor = BiasTensors(torch, 8).tensor({7: -99.5, 0: 100, 3: -100})

    assert tensor.dtype is torch.float32
    assert tensor.tolist() == [100.0, 0.0, 0.0, FORBIDDEN, 0.0, 0.0, 0.0, -99.5]


def test_forbidden_fits_half_precision() -> None:
    """With any logit added to it."""
    assert FORBIDDEN - 1000 > -65504


def test_same_bias_shares_a_tensor(torch: Any) -> None:
    biases = BiasTensors(torch, 8)

    assert biases.tensor({1: 2.0, 3: 4.0}) is biases.tensor({3: 4.0, 1: 2.0})
    assert biases.tensor({1: 2.0}) is not biases.tensor({1: 2.5})


def test_few_biases_are_kept(torch: Any) -> None:
    biases = BiasTensors(torch, 8)
    first = biases.tensor({1: -1.0})

    for value in range(KEPT_TENSORS):
        biases.tensor({1: float(value)})

    assert biases.tensor({1: -1.0}) is not first
