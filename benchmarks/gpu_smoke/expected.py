"""The behaviour that the double simulates: the expected answers to the questions of `live.py`."""

from __future__ import annotations

from collections.abc import Mapping

ANSWERS: Mapping[str, object] = {
    "iterates_over_itself": True,
    "ids_are_cumulative": True,
    "ends_for_length_with": "length, 4 tokens",
    "stop_word_is_taken_back": "stop, taken back, named",
    "end_id_is_shown": False,
    "abort_ends_with": "None, then cancelled",
    "greedy_is_repeatable": True,
    "log_probabilities_are": "8 for 8 tokens, float",
    "log_probability_of_a_stop_word_stays": True,
    "temperature_shapes_log_probabilities": True,
    "forbidden_token_comes": False,
    "preferred_token_comes_everywhere": True,
    "grammar_is_obeyed": "'ab', then stop",
    "unknown_sampling_field": "TypeError",
    "prompt_that_is_too_long": "RequestError, from the iterator",
    "prompt_of_the_whole_context": "RequestError, from the iterator",
    "prompt_that_leaves_one_token": "length",
    "empty_prompt": "IndexError",
    "stop_words_count_where_the_end_is_ignored": True,
    "statistics_have_our_keys": True,
    "can_tell_whether_it_is_shut_down": True,
    "cached_tokens_are_reported": False,
    "shut_down_engine_says": "RuntimeError: LLM is shutting down",
}


def unexpected(answers: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Question → (answer, expected answer) where the two differ."""
    names = {**ANSWERS, **answers}
    return {
        name: (answers.get(name, "not asked"), ANSWERS.get(name))
        for name in names
        if answers.get(name) != ANSWERS.get(name)
    }
