"""Let the model call a function over gRPC: have it call one, answer the call, and read what it says then.

Run `python examples/grpc_tools.py [host:port]` while `make serve` runs. A key comes from LODESTREAM_API_KEY.
"""

from __future__ import annotations

import json
import sys

from inference_client import Client, FinishReason, InferenceError, Message, Tool, ToolChoice

TARGET = sys.argv[1] if len(sys.argv) > 1 else None
WEATHER = Tool(
    name="get_weather",
    description="The weather in a city.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 40}},
        "required": ["city"],
        "additionalProperties": False,
    },
)


def get_weather(city: str) -> str:
    return f"Sunny in {city}, 22 degrees."


def main() -> None:
    messages = [Message("user", "What is the weather in Paris?")]
    with Client.from_environment(TARGET, timeout=60) as client:
        model = client.list_models()[0].id

        # Without a tool_choice the model decides; this one small models keep to, too.
        choice = ToolChoice(WEATHER.name)
        answer = client.generate(model=model, messages=messages, tools=[WEATHER], tool_choice=choice)
        if answer.finish_reason is not FinishReason.TOOL_CALLS:
            sys.exit(f"No whole call was made: {answer.finish_reason}.")

        messages.append(answer.choices[0].message)
        for call in answer.tool_calls:
            result = get_weather(**json.loads(call.arguments))
            print(f"{call.name}({call.arguments}): {result}")
            messages.append(Message("tool", result, tool_call_id=call.id))

        answer = client.generate(model=model, messages=messages, tools=[WEATHER], tool_choice="none")
        print(answer.text)


if __name__ == "__main__":
    try:
        main()
    except InferenceError as error:
        sys.exit(f"{type(error).__name__}: {error}")
