"""Ask over gRPC, without asyncio: the text as it is made, then what there is to know about it.

Run `python examples/grpc_sync.py [host:port]` while `make serve` runs. A key comes from LODESTREAM_API_KEY.
"""

from __future__ import annotations

import sys

from inference_client import Client, Delta, Finished, InferenceError, Message, Summary

TARGET = sys.argv[1] if len(sys.argv) > 1 else None


def main() -> None:
    question = [Message("user", "What is the capital of France?")]
    with Client.from_environment(TARGET, timeout=60) as client:
        model = client.list_models()[0].id
        print("prompt:", client.count_tokens(model, messages=question).token_count, "tokens")

        with client.stream(model=model, messages=question, temperature=0, max_tokens=40) as stream:
            for event in stream:
                if isinstance(event, Delta):
                    print(event.text, end="", flush=True)
                elif isinstance(event, Finished):
                    print(f"\nended: {event.reason} ({event.cause})")
                elif isinstance(event, Summary):
                    print(f"first token after {event.timings.time_to_first_token_ms:.0f} ms")


if __name__ == "__main__":
    try:
        main()
    except InferenceError as error:
        sys.exit(f"{type(error).__name__}: {error}")
