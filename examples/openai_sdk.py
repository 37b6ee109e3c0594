"""Ask over REST with the official `openai` SDK: a whole answer, a stream with its counts, a refusal.

Run `python examples/openai_sdk.py [http://host:port]` while `make serve` runs, after `pip install openai`.
A key comes from LODESTREAM_API_KEY.
"""

from __future__ import annotations

import os
import sys

from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("LODESTREAM_URL", "http://127.0.0.1:8000")
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


def main() -> None:
    # The SDK wants a key; a server without keys takes any.
    key = os.environ.get("LODESTREAM_API_KEY", "none")
    with OpenAI(base_url=f"{URL}/v1", api_key=key) as client:
        model = client.models.list().data[0].id

        answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0)
        print(answer.choices[0].message.content, f"({answer.choices[0].finish_reason})")

        stream = client.chat.completions.create(
            model=model, messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
        for chunk in stream:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
            elif chunk.usage:
                print(f"\n{chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens} tokens")

        try:
            client.chat.completions.create(model=model, messages=QUESTION, temperature=9)
        except BadRequestError as error:
            print("refused:", error.param, error.code)


if __name__ == "__main__":
    main()
