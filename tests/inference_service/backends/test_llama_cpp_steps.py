from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.backends.llama_cpp.sampling import FORBIDDEN, completion_body, engine_seed
from inference_service.backends.llama_cpp.steps import (
    LOWEST,
    Chunk,
    End,
    EngineFault,
    Likelihood,
    Progress,
    StepBuffer,
    TokenChunk,
    TokenIdFinder,
    read_chunk,
)
from inference_service.backends.types import EngineFinish, EngineRequest, EngineStep
from tests.inference_service.backends.contract import request, sampling

STOP = EngineFinish.END_OF_SEQUENCE
LIMIT = EngineFinish.MAX_TOKENS


MOST = 100

EMOJI = "😀".encode()
EMOJI_HEAD = 256
"""The token of an emoji's first two bytes."""


class Bytes:
    """A tokenizer whose ids are bytes, except for one id that its encoding never uses."""

    vocabulary_size = 257

    def encode_text(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token_id: int) -> bytes:
        return EMOJI[:2] if token_id == EMOJI_HEAD else bytes([token_id])


def buffer_of(*chunks: Chunk) -> StepBuffer:
    buffer = StepBuffer(TokenIdFinder(Bytes()), MOST)
    for chunk in chunks:
        buffer.add(chunk)
    return buffer


def reported(data: bytes, decoded: int) -> TokenChunk:
    """A part of a text with its log probabilities."""
    text = data.decode(errors="replace")
    return TokenChunk(text, data[-1] if data else 2, decoded, Likelihood(-0.5, [(7, -0.25), (8, -2.0)], data))


def steps_to(most: int, *chunks: Chunk) -> list[EngineStep]:
    """The steps after each chunk, with one alternative for each token."""
    buffer, steps = StepBuffer(TokenIdFinder(Bytes()), most, 1), []
    for chunk in chunks:
        buffer.add(chunk)
        if buffer.is_ready:
            steps.append(buffer.take())
    return steps


def ids_of(steps: list[EngineStep]) -> list[int]:
    return [token_id for step in steps for token_id in step.token_ids]


def known_of(steps: list[EngineStep]) -> list[bool]:
    return [not math.isnan(found.logprob) for step in steps for found in step.logprobs]


class TestChunks:
    def test_an_error_chunk_is_a_fault(self) -> None:
        with pytest.raises(EngineFault, match="too long"):
            read_chunk(b'{"error": {"code": 400, "message": "too long", "type": "x"}}')

    def test_progress_is_reported_before_the_first_token(self) -> None:
        raw = orjson.dumps({"prompt_progress": {"total": 9, "cache": 2, "processed": 5, "time_ms": 1}})

        assert read_chunk(raw) == Progress(total=9, processed=5, cached=2)

    @pytest.mark.parametrize(("stop_type", "finish"), [("eos", STOP), ("limit", LIMIT)])
    def test_the_last_chunk_has_the_finish(self, stop_type: str, finish: EngineFinish) -> None:
        detail = {"stop": True, "stop_type": stop_type, "tokens_predicted": 7, "content": "", "tokens": []}

        assert read_chunk(orjson.dumps({"__verbose": detail})) == End(finish, 7)

    def test_log_probabilities_are_floored(self) -> None:
        """The engine reports the lowest float for a probability that is too small."""
        lowest = -3.4028234663852886e38
        found = {"id": 7, "bytes": [97], "logprob": lowest, "top_logprobs": [{"id": 8, "logprob": 1e-9}]}
        detail = {"stop": False, "tokens_predicted": 1, "content": "a", "tokens": [7]}

        piece = read_chunk(orjson.dumps({"__verbose": {**detail, "completion_probabilities": [found]}}))

        assert piece == TokenChunk("a", 7, 1, Likelihood(LOWEST, [(8, 0.0)], b"a"))


class TestSteps:
    def test_chunks_that_are_ready_become_one_step(self) -> None:
        step = buffer_of(Progress(3, 3, 1), TokenChunk("a", 97, 1), TokenChunk("b", 98, 2)).take()

        assert (step.token_ids, step.token_count, step.text) == ([97, 98], 2, "ab")
        assert (step.finish, step.cached_tokens) == (None, 1)

    def test_cached_tokens_are_reported_once(self) -> None:
        buffer = buffer_of(Progress(3, 3, 1), TokenChunk("a", 97, 1))
        buffer.take()
        buffer.add(TokenChunk("b", 98, 2))

        assert buffer.take().cached_tokens is None

    def test_progress_without_tokens_makes_no_step(self) -> None:
        assert not buffer_of(Progress(9, 5, 0)).is_ready

    def test_the_end_of_sequence_token_comes_with_the_finish(self) -> None:
        """The engine reports it in a separate chunk right before."""
        buffer = buffer_of(TokenChunk("a", 97, 1), TokenChunk("", 2, 2))
        assert buffer.take().token_ids == [97]
        assert not buffer.is_ready

        buffer.add(End(STOP, 2))

        step = buffer.take()
        assert (step.token_ids, step.token_count, step.text, step.finish) == ([2], 1, "", STOP)

    def test_another_control_token_comes_with_the_next_token(self) -> None:
        assert buffer_of(TokenChunk("", 1, 1), TokenChunk("a", 97, 2)).take().token_ids == [1, 97]

    def test_dropped_ids_of_a_character_are_recovered(self) -> None:
        step = buffer_of(TokenChunk("€", 0xAC, 3)).take()

        assert step.token_ids == [0xE2, 0x82, 0xAC]
        assert step.token_count == 3

    def test_ids_that_do_not_match_the_text_are_left_out(self) -> None:
        assert buffer_of(TokenChunk("€", 0xAC, 2)).take().token_ids == [0xAC]
        assert buffer_of(TokenChunk("€", 0x01, 3)).take().token_ids == [0x01]
        assert buffer_of(TokenChunk("\N{REPLACEMENT CHARACTER}", 0xBD, 3)).take().token_ids == [0xBD]

    def test_tokens_of_an_unfinished_character_are_counted(self) -> None:
        step = buffer_of(TokenChunk("a", 97, 1), End(LIMIT, 3)).take()

        assert (step.token_ids, step.token_count, step.text) == ([97], 3, "a")

    def test_an_end_inside_a_character_does_not_change_the_end_id(self) -> None:
        step = buffer_of(TokenChunk("a", 97, 1), End(STOP, 3)).take()

        assert (step.token_ids, step.token_count, step.text) == ([], 3, "a")

    @given(st.lists(st.text(min_size=1, max_size=3), max_size=20), st.data())
    def test_steps_are_complete_at_every_cut(self, texts: list[str], data: st.DataObject) -> None:
        buffer, steps, decoded = StepBuffer(TokenIdFinder(Bytes()), 1_000), [], 0
        for text in texts:
            decoded += len(text.encode())
            buffer.add(TokenChunk(text, text.encode()[-1], decoded))
            if data.draw(st.booleans()):
                steps.append(buffer.take())
        buffer.add(End(LIMIT, decoded))
        steps.append(buffer.take())

        assert "".join(s.text or "" for s in steps) == "".join(texts)
        assert sum(s.token_count for s in steps) == decoded


class TestLogprobs:
    def test_each_token_has_its_own(self) -> None:
        step = buffer_with_two().take()

        assert [(found.token_id, found.logprob) for found in step.logprobs] == [(97, -0.5), (98, -0.5)]
        assert [found.top for found in step.logprobs] == [[(7, -0.25)]] * 2

    def test_dropped_tokens_of_a_character_have_no_log_probability(self) -> None:
        steps = steps_to(MOST, reported("€".encode(), 3))

        assert ids_of(steps) == list("€".encode())
        assert known_of(steps) == [False, False, True]

    def test_tokens_that_the_text_is_not_encoded_to_are_found_by_their_bytes(self) -> None:
        assert ids_of(steps_to(MOST, reported(EMOJI, 3))) == [EMOJI_HEAD, *EMOJI[2:]]
        assert ids_of(steps_to(MOST, reported(EMOJI, 4))) == list(EMOJI)

    def test_invalid_bytes_are_reported(self) -> None:
        assert ids_of(steps_to(MOST, reported(EMOJI[:2] + b"a", 3))) == [*EMOJI[:2], 97]

    def test_a_limit_inside_a_character_counts_its_first_tokens_without_text(self) -> None:
        """The engine continues until the character is complete."""
        steps = steps_to(2, reported(b"a", 1), reported("€".encode(), 4), End(LIMIT, 5))

        assert ids_of(steps) == [97, "€".encode()[0]]
        assert known_of(steps) == [True, False]
        assert [(s.token_count, s.text, s.finish) for s in steps] == [(1, "a", None), (1, "", LIMIT)]

    def test_limit_after_a_character_ends_at_once(self) -> None:
        steps = steps_to(
            2, reported(b"a", 1), reported(b"b", 2), reported(b"c", 3), reported(b"d", 4), End(LIMIT, 5)
        )

        assert [(s.token_ids, s.text, s.finish) for s in steps] == [([97], "a", None), ([98], "b", LIMIT)]

    def test_an_incomplete_character_is_counted_up_to_the_limit(self) -> None:
        steps = steps_to(2, reported(b"a", 1), End(LIMIT, 5))

        assert [(s.token_ids, s.token_count, s.finish) for s in steps[1:]] == [([], 1, LIMIT)]

    def test_end_at_the_limit_is_an_end(self) -> None:
        steps = steps_to(2, reported(b"a", 1), reported(b"", 2), End(STOP, 2))

        assert (ids_of(steps), known_of(steps), steps[-1].finish) == ([97, 2], [True, True], STOP)

    def test_an_end_beyond_the_limit_does_not_count(self) -> None:
        steps = steps_to(2, reported(b"a", 1), End(STOP, 4))

        assert [(s.token_ids, s.token_count, s.finish) for s in steps[1:]] == [([], 1, LIMIT)]

    @given(st.text(alphabet="a€😀", max_size=8), st.integers(1, 30), st.data())
    def test_tokens_and_log_probabilities_agree_at_every_cut(
        self, text: str, most: int, data: st.DataObject
    ) -> None:
        buffer, steps, decoded = StepBuffer(TokenIdFinder(Bytes()), most, 1), [], 0
        for char in text:
            decoded += len(char.encode())
            buffer.add(reported(char.encode(), decoded))
            if buffer.is_ready and data.draw(st.booleans()):
                steps.append(buffer.take())
        buffer.add(End(LIMIT, decoded))
        if buffer.is_ready:
            steps.append(buffer.take())

        spelled = b"".join(map(Bytes().token_bytes, ids_of(steps)))
        assert spelled == text.encode()[:most]
        assert [found.token_id for step in steps for found in step.logprobs] == ids_of(steps)
        assert "".join(step.text or "" for step in steps) == text.encode()[:most].decode(errors="ignore")
        assert [step.finish for step in steps][-1] is LIMIT


def buffer_with_two() -> StepBuffer:
    buffer = StepBuffer(TokenIdFinder(Bytes()), MOST, 1)
    buffer.add(reported(b"a", 1))
    buffer.add(reported(b"b", 2))
    return buffer


def body_of(engine_request: EngineRequest) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(completion_body(engine_request, 64))
    return body


class TestBody:
    def test_unused_options_are_not_sent(self) -> None:
        body = body_of(request([7], 5))

        assert (body["n_probs"], body["n_predict"]) == (0, 5)
        assert not {"logit_bias", "grammar"} & set(body)

    def test_the_bias_and_the_correction_of_penalties_add_up(self) -> None:
        engine_request = request(
            [7, 8], chosen_by=sampling(presence_penalty=1.5), logit_bias={8: -3.0, 9: 4.0}
        )

        assert dict(body_of(engine_request)["logit_bias"]) == {7: 1.5, 8: -1.5, 9: 4.0}

    def test_a_forbidden_token_stays_forbidden_with_corrected_penalties(self) -> None:
        engine_request = request([7] * 60, chosen_by=sampling(frequency_penalty=2.0), logit_bias={7: -100.0})

        assert dict(body_of(engine_request)["logit_bias"])[7] < FORBIDDEN / 2

    def test_log_probabilities_without_alternatives_are_requested(self) -> None:
        assert [body_of(request([7], logprobs=n))["n_probs"] for n in (0, 1, 20)] == [1, 1, 20]

    def test_grammar_is_not_lazy(self) -> None:
        body = body_of(request([7], grammar='root ::= "a"'))

        assert (body["grammar"], body["grammar_lazy"]) == ('%llguidance {}\nstart: "a"\n', False)

    def test_a_reproducible_request_uses_no_cached_prefix(self) -> None:
        def cache_prompt(*, reproducible: bool) -> object:
            engine_request = request([1], chosen_by=sampling(reproducible=reproducible))
            return orjson.loads(completion_body(engine_request, 64))["cache_prompt"]

        assert cache_prompt(reproducible=True) is False
        assert cache_prompt(reproducible=False) is True

    def test_penalties_for_the_prompt_are_corrected(self) -> None:
        chosen_by = sampling(frequency_penalty=0.5, presence_penalty=0.25)

        body = orjson.loads(completion_body(request([7, 7, 8], chosen_by=chosen_by), 64))

        assert body["repeat_last_n"] == 64
        assert dict(body["logit_bias"]) == {7: 1.25, 8: 0.75}

    def test_without_penalties_no_window_is_set(self) -> None:
        body = orjson.loads(completion_body(request([7, 7, 8]), 64))

        assert body["repeat_last_n"] == 0
        assert "logit_bias" not in body

    @given(st.integers(0, (1 << 64) - 1))
    def test_a_seed_is_never_the_value_for_a_random_seed(self, seed: int) -> None:
        assert 0 <= engine_seed(seed) < 0xFFFFFFFF

    @given(st.integers(0, 0xFFFFFFFE))
    def test_a_small_seed_is_unchanged(self, seed: int) -> None:
        assert engine_seed(seed) == seed
