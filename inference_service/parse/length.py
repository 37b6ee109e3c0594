"""How many tokens a prompt has at least, found out without reading it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lodestream.inference.v1 import generate_service_pb2 as generate_pb
from lodestream.inference.v1 import generation_pb2 as pb
from lodestream.inference.v1 import model_service_pb2 as model_pb

PromptMessage = generate_pb.GenerateRequest | model_pb.CountTokensRequest


def least_tokens(message: PromptMessage, longest_token: int) -> Iterator[tuple[str, int]]:
    """Each prompt of a request by the path of its field, and the fewest tokens that it can have.

    Args:
        message: as it arrived; nothing of it needs to be valid.
        longest_token: bytes of the longest token of the vocabulary, 1 or more.

    """
    form = message.WhichOneof("input")
    if form == "chat":
        yield "chat.messages", _fewest(_chat_texts(message.chat), longest_token)
    elif form == "prompt":
        yield "prompt", _fewest((message.prompt,), longest_token)
    elif form == "token_ids":
        yield "token_ids", len(message.token_ids.ids)
    elif isinstance(message, generate_pb.GenerateRequest):
        for number, prompt in enumerate(message.batch.prompts):
            ids = len(prompt.token_ids.ids)
            kind = "token_ids" if ids else "text"
            yield f"batch.prompts[{number}].{kind}", ids or _fewest((prompt.text,), longest_token)


def _fewest(texts: Iterable[str], longest_token: int) -> int:
    return -(-sum(len(text.encode()) for text in texts) // longest_token)


def _chat_texts(chat: pb.ChatInput) -> Iterator[str]:
    """What a chat template writes of a conversation, whatever else it writes."""
    for turn in chat.messages:
        yield turn.content
        for call in turn.tool_calls:
            yield call.arguments
    if chat.tool_choice.mode != pb.TOOL_CHOICE_MODE_NONE:
        for tool in chat.tools:
            yield tool.description
