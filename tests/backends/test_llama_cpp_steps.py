from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.backends.llama_cpp.sampling import completion_body, engine_seed
from inference_service.backends.llama_cpp.steps import (
    End,
    EngineFault,
    Piece,
    Progress,
    StepBuffer,
    read_chunk,
)
from inference_service.backends.types import EngineFinish
from tests.backends.contract import request, sampling

STOP = EngineFinish.END_OF_SEQUENCE
LIMIT = EngineFinish.MAX_TOKENS


class Bytes:
    """A tokenizer whose ids are bytes."""

    vocabulary_size = 256

    def encode_text(self, text: str) -> list[int]:
        return list(text.encode())


def buffer_of(*chunks: Progress | Piece | End) -> StepBuffer:
    buffer = StepBuffer(Bytes())
    for chunk in chunks:
        buffer.add(chunk)
    return buffer


class TestChunks:
    def test_error_is_a_fault(self) -> None:
        with pytest.raises(EngineFault, match="too long"):
            read_chunk(b'{"error": {"code": 400, "message": "too long", "type": "x"}}')

    def test_progress_comes_before_the_first_token(self) -> None:
        raw = orjson.dumps({"prompt_progress": {"total": 9, "cache": 2, "processed": 5, "time_ms": 1}})

        assert read_chunk(raw) == Progress(total=9, processed=5, cached=2)

    @pytest.mark.parametrize(("said", "finish"), [("eos", STOP), ("limit", LIMIT)])
    def test_last_chunk_says_why(self, said: str, finish: EngineFinish) -> None:
        detail = {"stop": True, "stop_type": said, "tokens_predicted": 7, "content": "", "tokens": []}

        assert read_chunk(orjson.dumps({"__verbose": detail})) == End(finish, 7)


class TestSteps:
    def test_what_piled_up_is_one_step(self) -> None:
        step = buffer_of(Progress(3, 3, 1), Piece("a", 97, 1), Piece("b", 98, 2)).take()

        assert (step.token_ids, step.token_count, step.text) == ([97, 98], 2, "ab")
        assert (step.finish, step.cached_tokens) == (None, 1)

    def test_cached_tokens_are_told_once(self) -> None:
        buffer = buffer_of(Progress(3, 3, 1), Piece("a", 97, 1))
        buffer.take()
        buffer.add(Piece("b", 98, 2))

        assert buffer.take().cached_tokens is None

    def test_progress_alone_is_no_step(self) -> None:
        assert not buffer_of(Progress(9, 5, 0)).is_ready

    def test_end_of_sequence_token_leaves_with_the_finish(self) -> None:
        """The engine reports it by a chunk of its own, just before."""
        buffer = buffer_of(Piece("a", 97, 1), Piece("", 2, 2))
        assert buffer.take().token_ids == [97]
        assert not buffer.is_ready

        buffer.add(End(STOP, 2))

        step = buffer.take()
        assert (step.token_ids, step.token_count, step.text, step.finish) == ([2], 1, "", STOP)

    def test_other_control_token_leaves_with_the_next(self) -> None:
        assert buffer_of(Piece("", 1, 1), Piece("a", 97, 2)).take().token_ids == [1, 97]

    def test_dropped_ids_of_a_character_are_recovered(self) -> None:
        step = buffer_of(Piece("€", 0xAC, 3)).take()

        assert step.token_ids == [0xE2, 0x82, 0xAC]
        assert step.token_count == 3

    def test_ids_that_cannot_be_the_same_are_left_out(self) -> None:
        assert buffer_of(Piece("€", 0xAC, 2)).take().token_ids == [0xAC]
        assert buffer_of(Piece("€", 0x01, 3)).take().token_ids == [0x01]
        assert buffer_of(Piece("\N{REPLACEMENT CHARACTER}", 0xBD, 3)).take().token_ids == [0xBD]

    def test_tokens_of_an_unfinished_character_are_counted(self) -> None:
        step = buffer_of(Piece("a", 97, 1), End(LIMIT, 3)).take()

        assert (step.token_ids, step.token_count, step.text) == ([97], 3, "a")

    def test_end_inside_a_character_names_no_other_id_as_the_end(self) -> None:
        step = buffer_of(Piece("a", 97, 1), End(STOP, 3)).take()

        assert (step.token_ids, step.token_count, step.text) == ([], 3, "a")

    @given(st.lists(st.text(min_size=1, max_size=3), max_size=20), st.data())
    def test_no_cut_loses_anything(self, texts: list[str], data: st.DataObject) -> None:
        buffer, steps, decoded = StepBuffer(Bytes()), [], 0
        for text in texts:
            decoded += len(text.encode())
            buffer.add(Piece(text, text.encode()[-1], decoded))
            if data.draw(st.booleans()):
                steps.append(buffer.take())
        buffer.add(End(LIMIT, decoded))
        steps.append(buffer.take())

        assert "".join(s.text or "" for s in steps) == "".join(texts)
        assert sum(s.token_count for s in steps) == decoded


class TestBody:
    def test_reproducible_request_takes_nothing_from_the_cache(self) -> None:
        def cache_prompt(*, reproducible: bool) -> object:
            wanted = request([1], chosen_by=sampling(reproducible=reproducible))
            return orjson.loads(completion_body(wanted, 64))["cache_prompt"]

        assert cache_prompt(reproducible=True) is False
        assert cache_prompt(reproducible=False) is True

    def test_penalties_on_the_prompt_are_taken_back(self) -> None:
        chosen_by = sampling(frequency_penalty=0.5, presence_penalty=0.25)

        body = orjson.loads(completion_body(request([7, 7, 8], chosen_by=chosen_by), 64))

        assert body["repeat_last_n"] == 64
        assert dict(body["logit_bias"]) == {7: 1.25, 8: 0.75}

    def test_no_penalty_costs_no_window(self) -> None:
        body = orjson.loads(completion_body(request([7, 7, 8]), 64))

        assert body["repeat_last_n"] == 0
        assert "logit_bias" not in body

    @given(st.integers(0, (1 << 64) - 1))
    def test_seed_is_never_the_mark_for_a_random_one(self, seed: int) -> None:
        assert 0 <= engine_seed(seed) < 0xFFFFFFFF

    @given(st.integers(0, 0xFFFFFFFE))
    def test_small_seed_is_kept(self, seed: int) -> None:
        assert engine_seed(seed) == seed
