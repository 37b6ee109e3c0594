"""Ask over REST with the API's own SDK, `polargrid-sdk`: chat, stream, completion, models, health.

Run `python examples/polargrid_sdk.py [http://host:port]` while `make serve` runs, after
`pip install polargrid-sdk`. A key comes from LODESTREAM_API_KEY.
"""

from __future__ import annotations

import asyncio
import os
import sys

from polargrid import PolarGrid

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("LODESTREAM_URL", "http://127.0.0.1:8000")
QUESTION = {"role": "user", "content": "What is the capital of France?"}


async def main() -> None:
    client = PolarGrid(api_key=os.environ.get("LODESTREAM_API_KEY", "none"), base_url=URL)
    print("health:", (await client.health()).status)
    model = (await client.list_models()).data[0].id

    answer = await client.chat_completion({"model": model, "messages": [QUESTION], "max_tokens": 40})
    print(answer.choices[0].message.content, f"({answer.pg_metadata.inference_time_ms} ms)")

    async for chunk in client.chat_completion_stream({"model": model, "messages": [QUESTION]}):
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()

    async for chunk in client.completion_stream({"model": model, "prompt": "Once upon a time"}):
        print(chunk.choices[0].text, end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main())
