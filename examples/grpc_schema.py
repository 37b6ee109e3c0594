"""Have an answer keep to a JSON Schema over gRPC, and see how sure the model was of its tokens.

Run `python examples/grpc_schema.py [host:port]` while `make serve` runs. A key comes from LODESTREAM_API_KEY.
"""

from __future__ import annotations

import json
import math
import sys

from inference_client import Client, InferenceError, JsonSchema, Message

TARGET = sys.argv[1] if len(sys.argv) > 1 else None
CITY = JsonSchema(
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 40},
            "continent": {"enum": ["Africa", "America", "Asia", "Europe", "Oceania"]},
        },
        "required": ["city", "continent"],
        "additionalProperties": False,
    }
)


def main() -> None:
    question = [Message("user", "What is the capital of France? Answer in JSON: city, continent.")]
    with Client.from_environment(TARGET, timeout=60) as client:
        model = client.list_models()[0].id
        answer = client.generate(
            model=model, messages=question, constraint=CITY, temperature=0, logprobs=True
        )

    # An answer that was cut short, by max_tokens for one, is no whole document.
    if answer.finish_reason != "stop":
        sys.exit(f"The answer has no end: {answer.finish_reason}.")
    print(json.loads(answer.text))
    for entry in answer.choices[0].logprobs:
        print(f"{math.exp(entry.logprob):7.2%} {entry.token!r}")


if __name__ == "__main__":
    try:
        main()
    except InferenceError as error:
        sys.exit(f"{type(error).__name__}: {error}")
