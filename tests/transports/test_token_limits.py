"""The operator's limits of tokens apply over both transports."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from inference_client import Model
from tests.support.service import MODEL_ID, service_config
from tests.support.transports import Answer, Transports, running_transports

PROMPT: dict[str, Any] = {"model": MODEL_ID, "prompt": "Hello", "ignore_eos": True}


def _made(answer: Answer) -> int:
    assert answer.usage is not None, answer.message
    return answer.usage[1]


async def _served(transports: Transports) -> tuple[Model, dict[str, Any]]:
    return (await transports.client.list_models())[0], (await transports.http.get("/v1/models")).json()[
        "data"
    ][0]


async def test_the_operators_default_and_limit_apply_over_both_transports() -> None:
    """Both may be raised; a value over the limit is refused with the range; the model listing has both."""
    async with running_transports(default_max_tokens=7, max_tokens_limit=4200) as transports:
        for ask in transports.ways:
            assert _made(await ask(PROMPT)) == 7
            assert _made(await ask({**PROMPT, "max_tokens": 4200})) == 4200
            refused = await ask({**PROMPT, "max_tokens": 4201})
            assert "is 4201; it must be in [1, 4200]." in refused.message
        over_grpc, over_rest = await _served(transports)

    assert (over_grpc.default_max_tokens, over_grpc.max_tokens_limit) == (7, 4200)
    assert (over_rest["default_max_tokens"], over_rest["max_tokens_limit"]) == (7, 4200)


async def test_without_settings_they_are_those_of_the_contract() -> None:
    async with running_transports() as transports:
        for ask in transports.ways:
            assert _made(await ask(PROMPT)) == 150
            assert "[1, 4096]" in (await ask({**PROMPT, "max_tokens": 4097})).message


async def test_a_lower_limit_lowers_the_default() -> None:
    """If only the limit is set, the default is not above it."""
    async with running_transports(max_tokens_limit=20) as transports:
        assert _made(await transports.by_rest(PROMPT)) == 20
        assert (await _served(transports))[0].default_max_tokens == 20


def test_a_default_over_the_limit_is_an_error() -> None:
    """Both settings are given."""
    with pytest.raises(ValidationError, match="default_max_tokens: 30 is above max_tokens_limit"):
        service_config(default_max_tokens=30, max_tokens_limit=20)
