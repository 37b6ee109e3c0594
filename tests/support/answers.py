"""Reads answers and errors of both transports into one form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from inference_client import Choice, Generation, InferenceError, TokenLogprob
from rest_bridge.errors import in_rest_names, rest_name
from tests.support.comparable_answer import Answer, AnswerChoice, Score, check_equal

__all__ = [
    "Answer",
    "check_equal",
    "join_chunks",
    "read_error",
    "read_generation",
    "read_refusal",
    "read_reply",
]

Body = Mapping[str, Any]


def read_error(error: InferenceError) -> Answer:
    """Read an error over gRPC; its parameter gets REST's most usual name, so that both can be compared."""
    param: str | None = getattr(error, "param", None)
    return Answer(error=error.code, param=param and rest_name(param), message=in_rest_names(error.message))


def read_generation(generation: Generation, request: Body) -> Answer:
    """Read an answer over gRPC."""
    usage = (generation.usage.prompt_tokens, generation.usage.completion_tokens)
    report = generation.report
    parameters = {"max_tokens": report.max_tokens, **asdict(report.sampling)}
    parameters["logit_bias"] = {str(i): bias for i, bias in report.sampling.logit_bias.items()}
    choices = tuple(_read_choice(choice, request) for choice in generation.choices)
    return Answer(
        choices,
        usage,
        _without_drawn_seed(parameters, request),
        frozenset(map(rest_name, report.ignored_parameters)),
    )


def _read_choice(choice: Choice, request: Body) -> AnswerChoice:
    finished = choice.finished
    stop = finished.stop_token_id if finished.stop_sequence is None else finished.stop_sequence
    score = _chat_score if "messages" in request else _completion_score
    is_scored = _is_scored(request)
    assert is_scored or not choice.logprobs
    return AnswerChoice(
        choice.text,
        choice.token_ids,
        choice.finish_reason.value,
        (finished.cause.value, stop, finished.filter_rule),
        tuple((call.id, call.name, call.arguments) for call in choice.tool_calls),
        tuple(score(entry) for entry in choice.logprobs) if is_scored else None,
    )


def _is_scored(request: Body) -> bool:
    logprobs = request.get("logprobs")
    return logprobs is not None and logprobs is not False


def _chat_score(entry: TokenLogprob) -> Score:
    top = tuple((other.token, _floored(other.logprob)) for other in entry.top)
    return Score(entry.token, _floored(entry.logprob), entry.bytes, top)


def _completion_score(entry: TokenLogprob) -> Score:
    """A score as `/v1/completions` reports it: alternatives by name, the likeliest one of each name."""
    top: dict[str, float] = {}
    for other in (*entry.top, entry):
        top.setdefault(_name(other), _floored(other.logprob))
    return Score(_name(entry), _floored(entry.logprob), None, tuple(sorted(top.items())))


def _name(entry: TokenLogprob) -> str:
    if "\ufffd" not in entry.token:
        return entry.token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.bytes)


def _floored(logprob: float) -> float:
    return max(logprob, -9999.0)


def _without_drawn_seed(parameters: Mapping[str, Any], request: Body) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name != "seed" or "seed" in request}


def read_refusal(body: Body) -> Answer:
    """Read an error over REST."""
    error = body["error"]
    return Answer(error=error["code"], param=error["param"], message=error["message"])


def read_reply(body: Body, request: Body) -> Answer:
    """Read a whole answer over REST."""
    if body["object"] == "validation":
        assert not body["choices"]
        return Answer((), _usage(body), _without_drawn_seed(body["parameters"], request), _ignored(body))
    return _answer([_RestChoice.of(choice) for choice in body["choices"]], body, request)


def join_chunks(lines: Sequence[str], request: Body) -> Answer:
    """Join a streamed answer over REST."""
    assert lines[-1] == "data: [DONE]", lines[-1]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    found: dict[int, _RestChoice] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        found.setdefault(choice["index"], _RestChoice()).add(choice)
    assert not any(chunk["usage"] for chunk in chunks[:-1])
    return _answer([found[index] for index in sorted(found)], chunks[-1], request)


@dataclass(slots=True)
class _RestChoice:
    """A choice over REST, read whole or chunk by chunk."""

    is_open: bool = False
    text: str = ""
    ids: list[int] = field(default_factory=list)
    reason: str = ""
    calls: list[list[str]] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)

    @classmethod
    def of(cls, choice: Body) -> _RestChoice:
        """Read a whole choice."""
        message = choice.get("message", choice)
        if "message" in choice and message["content"] is None:
            assert message["tool_calls"]
        calls = [dict(call, index=number) for number, call in enumerate(message.get("tool_calls", ()))]
        read = cls()
        read.add({**choice, "delta": {**message, "tool_calls": calls}} if "message" in choice else choice)
        return read

    def add(self, chunk: Body) -> None:
        """Read the next chunk."""
        assert not self.reason, "a choice went on after its end"
        delta = chunk.get("delta", chunk)
        assert ("role" in delta) == ("delta" in chunk and not self.is_open)
        self.is_open = True
        self.text += delta.get("content" if "delta" in chunk else "text") or ""
        self.ids += chunk.get("token_ids", ())
        self.reason = chunk["finish_reason"] or ""
        self.scores += _scores(chunk["logprobs"] or {})
        for piece in delta.get("tool_calls", ()):
            self._add_call(piece)

    def _add_call(self, piece: Body) -> None:
        function = piece["function"]
        if piece["index"] == len(self.calls):
            assert piece["type"] == "function"
            self.calls.append([piece["id"], function["name"], function["arguments"]])
        else:
            assert piece["index"] == len(self.calls) - 1
            assert "id" not in piece
            assert "name" not in function
            self.calls[-1][2] += function["arguments"]


def _scores(logprobs: Body) -> Iterable[Score]:
    if "content" in logprobs:
        for entry in logprobs["content"]:
            top = tuple((other["token"], other["logprob"]) for other in entry["top_logprobs"])
            yield Score(entry["token"], entry["logprob"], bytes(entry["bytes"] or ()), top)
    elif logprobs:
        columns = (logprobs[name] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"))
        for token, logprob, top_of, _ in zip(*columns, strict=True):
            yield Score(token, logprob, None, tuple(sorted(top_of.items())))


def _answer(read: Sequence[_RestChoice], last: Body, request: Body) -> Answer:
    metadata = last["pg_metadata"]
    endings = {ending["index"]: ending for ending in metadata["choices"]}
    assert sorted(endings) == list(range(len(read)))
    is_scored = _is_scored(request)
    choices = tuple(
        AnswerChoice(
            one.text,
            tuple(one.ids),
            one.reason,
            _ending(endings[index]),
            tuple((call[0], call[1], call[2]) for call in one.calls),
            tuple(one.scores) if is_scored else None,
        )
        for index, one in enumerate(read)
    )
    return Answer(
        choices, _usage(last), _without_drawn_seed(metadata["parameters"], request), _ignored(metadata)
    )


def _ignored(metadata: Body) -> frozenset[str]:
    """The ignored parameters, without those that concern only streams."""
    return frozenset(metadata["ignored_parameters"]) - {"stream", "stream_options"}


def _ending(metadata: Body) -> tuple[str, str | int | None, str | None]:
    stop = metadata["stop_token_id"] if metadata["stop_sequence"] is None else metadata["stop_sequence"]
    return metadata["cause"], stop, metadata["filter_rule"]


def _usage(body: Body) -> tuple[int, int]:
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"]
