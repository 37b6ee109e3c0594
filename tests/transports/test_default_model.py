"""The default model answers, and calls tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference_service.models import catalog
from inference_service.models.loader import ModelFile
from tests.support.transports import running_transports

pytestmark = pytest.mark.default_model

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def _question(text: str, **options: Any) -> dict[str, Any]:
    return {
        "model": catalog.DEFAULT_ID,
        "temperature": 0,
        "messages": [{"role": "user", "content": text}],
        **options,
    }


async def test_it_answers_and_calls_tools(default_model_file: ModelFile) -> None:
    """It gives the README's answer over both transports, and calls a tool by its own choice and on demand."""
    assert default_model_file.id == catalog.DEFAULT_ID
    async with running_transports(
        backend="llama_cpp", model=catalog.DEFAULT_ID, max_concurrency=1, context_length=1024
    ) as transports:
        for ask in transports.ways:
            answer = await ask(_question("What is the capital of France?"))
            assert answer.text == "The capital of France is Paris."
        for choice in ("auto", "required"):
            body = _question("What is the weather in Paris?", tools=[WEATHER], tool_choice=choice)
            reply = (await transports.http.post("/v1/chat/completions", json=body, timeout=100)).json()
            (call,) = reply["choices"][0]["message"]["tool_calls"]
            assert call["function"]["name"] == "get_weather"
            assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
            assert reply["choices"][0]["finish_reason"] == "tool_calls"
