"""Converts the events of a generation to the gateway's messages: tokens, no text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from smg_grpc_proto.generated import trtllm_service_pb2 as pb

from inference_service.output.events import (
    Delta,
    Event,
    Finished,
    ScoredToken,
    Started,
    StopCause,
    Summary,
)
from inference_service.output.token_buffer import Detokenizer
from inference_service.prompt.tokenizer import Tokenizer


@dataclass(slots=True)
class _Sequence:
    """The tokens of one sequence so far."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    count: int = 0
    """Tokens that the engine made for it, and the caller may know of."""


Write = Callable[[pb.GenerateResponse], Awaitable[None]]


class Answer:
    """The messages of one answer, in the order of the events.

    Args:
        message: the request.
        write: sends each message but the last one.
        texts: gives tokens for text that the content filter changed; None: nothing is filtered.

    """

    def __init__(self, message: pb.GenerateRequest, write: Write, texts: Tokenizer | None) -> None:
        self.last = pb.GenerateResponse()
        """The last message, which gRPC sends with the status, once the summary was taken."""
        self._write = write
        self._request_id = message.request_id
        self._is_streamed = message.streaming
        self._includes_stop = message.include_stop_token_in_output
        self._texts = texts
        self._prompt_tokens = 0
        self._sequences: dict[int, _Sequence] = {}
        self._ended: dict[int, Finished] = {}
        self._unsent: dict[int, FilteredTokens] = {}

    async def take(self, batch: Sequence[Event]) -> None:
        """Send the messages of events that are ready together."""
        messages = [message for event in batch for message in self._messages(event)]
        if isinstance(batch[-1], Summary):
            self.last = messages.pop()
        for message in messages:
            await self._write(message)

    def _messages(self, event: Event) -> Iterator[pb.GenerateResponse]:
        """The messages that an event gives; the summary, which has all counts, completes the sequences."""
        match event:
            case Started():
                self._prompt_tokens = event.prompt_tokens
            case Delta():
                yield from self._delta(event)
            case Finished():
                yield from self._finished(event)
            case Summary():
                for index, finished in sorted(self._ended.items()):
                    yield self._complete(index, self._sequences[index], finished, event)

    def _delta(self, delta: Delta) -> Iterator[pb.GenerateResponse]:
        sequence = self._sequences.setdefault(delta.index, _Sequence())
        sequence.count += delta.token_count
        ids, scores = delta.token_ids, delta.logprobs
        if self._texts is not None:
            unsent = self._unsent.setdefault(delta.index, FilteredTokens(self._texts))
            ids = unsent.take(delta)
            scores = scores if ids is delta.token_ids else ()
        yield from self._chunk(delta.index, sequence, ids, [_logprob(token) for token in scores])

    def _finished(self, finished: Finished) -> Iterator[pb.GenerateResponse]:
        sequence = self._sequences.setdefault(finished.index, _Sequence())
        self._ended[finished.index] = finished
        if finished.index in self._unsent:
            yield from self._chunk(finished.index, sequence, self._unsent[finished.index].rest(), [])
        if (
            self._includes_stop
            and finished.cause is StopCause.STOP_TOKEN
            and finished.stop_token_id is not None
        ):
            yield from self._chunk(finished.index, sequence, [finished.stop_token_id], [])

    def _chunk(
        self, index: int, sequence: _Sequence, ids: Sequence[int], logprobs: Sequence[pb.TokenLogprob]
    ) -> Iterator[pb.GenerateResponse]:
        sequence.ids += ids
        sequence.logprobs += logprobs
        if self._is_streamed and ids:
            chunk = pb.GenerateStreamChunk(
                token_ids=ids,
                sequence_index=index,
                prompt_tokens=self._prompt_tokens,
                completion_tokens=sequence.count,
                logprobs=logprobs,
            )
            yield pb.GenerateResponse(request_id=self._request_id, chunk=chunk)

    def _complete(
        self, index: int, sequence: _Sequence, finished: Finished, summary: Summary
    ) -> pb.GenerateResponse:
        usage = summary.usage
        complete = pb.GenerateComplete(
            output_token_ids=sequence.ids,
            sequence_index=index,
            finish_reason=finished.reason.value,
            prompt_tokens=usage.prompt_tokens,
            # One sequence alone is charged with every token that the engine made, the last one included.
            completion_tokens=usage.completion_tokens if len(self._sequences) == 1 else sequence.count,
            cached_tokens=usage.cached_tokens or 0,
            logprobs=sequence.logprobs,
        )
        if finished.cause is StopCause.STOP_SEQUENCE:
            complete.matched_stop_str = finished.stop_sequence or ""
        elif finished.cause is StopCause.STOP_TOKEN:
            complete.matched_token_id = finished.stop_token_id or 0
        return pb.GenerateResponse(request_id=self._request_id, complete=complete)


class FilteredTokens:
    """The tokens of one sequence that the content filter may change.

    Until the first redaction they are the engine's. From then on the text that remains is encoded anew: the
    tokens of a redacted text must not be named, and text may be sent before its token is complete.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._unsent = ""
        """Released text whose tokens are not sent yet."""
        self._is_redacted = False

    def take(self, delta: Delta) -> Sequence[int]:
        """The tokens to send for a delta; `delta.token_ids` itself where they are the engine's."""
        self._is_redacted = self._is_redacted or len(delta.token_ids) != delta.token_count
        if self._is_redacted:
            text, self._unsent = self._unsent + delta.text, ""
            return self._tokenizer.encode_text(text)
        sent = sum(len(self._detokenizer.feed(token_id)) for token_id in delta.token_ids)
        self._unsent = (self._unsent + delta.text)[sent:]
        return delta.token_ids

    def rest(self) -> Sequence[int]:
        """Tokens for text before a token that the filter stopped."""
        text, self._unsent = self._unsent, ""
        return self._tokenizer.encode_text(text)


def _logprob(token: ScoredToken) -> pb.TokenLogprob:
    top = [pb.TopLogprob(token_id=other.token_id, logprob=other.logprob) for other in token.top]
    return pb.TokenLogprob(token_id=token.token_id, logprob=token.logprob, top_logprobs=top)
