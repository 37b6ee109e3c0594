"""Ask over gRPC, on asyncio: the text as it is made, then a whole answer.

Run `python examples/grpc_async.py [host:port]` while `make serve` runs. A key comes from LODESTREAM_API_KEY.
"""

from __future__ import annotations

import asyncio
import sys

from inference_client import AsyncClient, InferenceError, Message

TARGET = sys.argv[1] if len(sys.argv) > 1 else None


async def main() -> None:
    async with AsyncClient.from_environment(TARGET, timeout=60) as client:
        model = (await client.list_models())[0].id

        # Leaving the block early, by `break` or an exception, cancels the generation at once.
        async with client.stream(model=model, prompt="Once upon a time", max_tokens=40) as stream:
            async for text in stream.text():
                print(text, end="", flush=True)
        print()

        question = [Message("user", "What is the capital of France?")]
        answer = await client.generate(model=model, messages=question, temperature=0)
        print(answer.text, f"({answer.finish_reason}, {answer.usage.total_tokens} tokens)")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except InferenceError as error:
        sys.exit(f"{type(error).__name__}: {error}")
