"""The double does what TensorRT-LLM is known to do, so that what passes over it may pass there."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.double.tensorrt_llm.builder import LLAMA_3_1_8B
from tests.support.tensorrt import LIMITS, make_engine, with_slow_tokenizer

pytestmark = pytest.mark.usefixtures("double")

Load = Callable[..., Any]


@pytest.fixture
def arguments() -> dict[str, Any]:
    """What an engine of LIMITS is loaded with."""
    return {**LIMITS, "max_input_len": 1024, "max_beam_width": 1, "enable_chunked_prefill": True}


@pytest_asyncio.fixture
async def load(llama31_files: Path, tmp_path: Path, arguments: dict[str, Any]) -> AsyncIterator[Load]:
    """Loads an engine that follows a script; shuts it down after the test."""
    made: list[Any] = []

    def load(script: dict[str, Any] | None = None, **changes: Any) -> Any:
        directory = tmp_path / f"engine-{len(made)}"
        make_engine(directory, llama31_files, script=script or {})
        llm = import_module("tensorrt_llm._tensorrt_engine").LLM
        made.append(llm(model=str(directory), **{**arguments, **changes}))
        return made[-1]

    yield load
    for llm in made:
        llm.shutdown()


def params(**fields: Any) -> Any:
    fields = {"max_tokens": 10, "ignore_eos": True, "temperature": 1.0, "top_p": 1.0, "seed": 1, **fields}
    return import_module("tensorrt_llm").SamplingParams(**fields)


def ask(llm: Any, ids: list[int] | None = None, **fields: Any) -> Any:
    inputs = {"prompt_token_ids": ids or [9906, 1917]}
    return llm.generate_async(inputs=inputs, sampling_params=params(**fields), streaming=True)


def ask_text(llm: Any, text: str, **fields: Any) -> Any:
    return ask(llm, llm._tokenizer.encode(text), **fields)


def bias(entries: dict[int, float]) -> Any:
    torch = import_module("torch")
    tensor = torch.zeros(128256)
    tensor[list(entries)] = torch.tensor(list(entries.values()))
    return tensor


async def finished(result: Any) -> Any:
    return await asyncio.wait_for(result.aresult(), 10)


class TestResults:
    async def test_result_yields_itself_and_its_ids_are_cumulative(self, load: Load) -> None:
        result = ask(load())
        lengths = []
        async for turn in result:
            assert turn is result
            lengths.append(len(result.outputs[0].token_ids))

        assert lengths == list(range(1, 11))
        assert result.finished
        assert result.outputs[0].finish_reason == "length"

    async def test_differences_are_those_of_the_last_response_only(self, load: Load) -> None:
        result = ask(load())
        await asyncio.sleep(0.3)
        await result.__anext__()
        await result.__anext__()

        assert len(result.outputs[0].token_ids_diff) == 1
        assert len(result.outputs[0].token_ids) == 2

    async def test_stop_word_shows_and_is_taken_back(self, load: Load) -> None:
        llm = load()
        result = ask(llm, ignore_eos=False, end_id=128001, stop_token_ids=[128009], max_tokens=50)
        seen: list[list[int]] = [list(turn.outputs[0].token_ids) async for turn in result]

        assert seen[-2][-1] == 128009
        assert seen[-1] == seen[-2][:-1]
        assert (result.outputs[0].finish_reason, result.outputs[0].stop_reason) == ("stop", 128009)

    async def test_stop_words_end_what_ignores_the_end(self, load: Load) -> None:
        result = await finished(ask(load(), stop_token_ids=[1917], max_tokens=50, end_id=128001))

        assert (result.outputs[0].finish_reason, result.outputs[0].stop_reason) == ("stop", 1917)

    async def test_cached_tokens_are_never_told(self, load: Load) -> None:
        llm, prompt = load(), [9906, 1917] * 100
        await finished(ask(llm, prompt))

        again = await finished(ask(llm, prompt))

        assert again.cached_tokens == 0
        assert sum(s["kvCacheStats"]["reusedBlocks"] for s in llm.get_stats(0.1)[-1:]) > 0

    async def test_asynchronous_statistics_stop_the_loop(self, load: Load) -> None:
        """The call that waits is made inside the coroutine."""
        llm = load()
        await finished(ask(llm))
        assert llm.get_stats(1)
        while llm.get_stats(0.2):
            # The engine may write its last readings a little after the request's end.
            pass
        turns: list[int] = []
        asyncio.get_running_loop().call_later(0.05, turns.append, 1)

        assert [reading async for reading in llm.get_stats_async(0.5)] == []

        assert not turns

    async def test_end_id_never_shows(self, load: Load) -> None:
        result = await finished(ask(load(), ignore_eos=False, end_id=128009, max_tokens=50))

        assert 128009 not in result.outputs[0].token_ids
        assert (result.outputs[0].finish_reason, result.outputs[0].stop_reason) == ("stop", None)

    async def test_text_comes_unless_it_is_not_wanted(self, load: Load) -> None:
        llm = load()

        assert (await finished(ask(llm))).outputs[0].text.startswith("[")
        assert (await finished(ask(llm, detokenize=False))).outputs[0].text == ""

    async def test_unset_fields_are_greedy_short_and_seeded_alike(self, load: Load) -> None:
        llm, plain = load(), import_module("tensorrt_llm").SamplingParams
        inputs = {"prompt_token_ids": [9906, 1917]}

        first = await finished(llm.generate_async(inputs=inputs, sampling_params=plain(), streaming=True))
        other = await finished(ask(llm, temperature=1.0, top_p=None, seed=7))
        sampled = [await finished(ask(llm, seed=seed)) for seed in (None, 0, 7)]

        assert plain().max_tokens == 32
        assert first.outputs[0].token_ids[:9] == other.outputs[0].token_ids[:9]
        assert sampled[0].outputs[0].token_ids == sampled[1].outputs[0].token_ids
        assert sampled[1].outputs[0].token_ids != sampled[2].outputs[0].token_ids

    async def test_log_probabilities_by_the_private_switch(self, load: Load) -> None:
        llm, wanted = load(), params()
        wanted._return_log_probs = True
        inputs = {"prompt_token_ids": [9906]}

        result = await finished(llm.generate_async(inputs=inputs, sampling_params=wanted, streaming=True))

        output = result.outputs[0]
        assert output.logprobs == [-(1 + token % 97) / 64 for token in output.token_ids]
        assert output.cumulative_logprob == sum(output.logprobs)

    async def test_log_probability_of_a_stop_word_stays(self, load: Load) -> None:
        """The ids shrink, and it does not."""
        llm = load()
        wanted = params(ignore_eos=False, end_id=128001, stop_token_ids=[128009], max_tokens=50)
        wanted._return_log_probs = True
        inputs = {"prompt_token_ids": [9906]}

        output = (
            await finished(llm.generate_async(inputs=inputs, sampling_params=wanted, streaming=True))
        ).outputs[0]

        assert output.stop_reason == 128009
        assert len(output.logprobs) == len(output.token_ids) + 1

    async def test_other_loops_starve(self, load: Load) -> None:
        """The loop of the first request is the only one that is woken."""
        llm = load({"tps": 50})
        own = ask(llm, max_tokens=100)
        await own.__anext__()
        starved: list[bool] = []

        async def elsewhere() -> None:
            result = ask(llm, max_tokens=5)
            try:
                await asyncio.wait_for(result.aresult(), 0.5)
            except TimeoutError:
                starved.append(True)

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        thread.start()
        await finished(own)
        await asyncio.to_thread(thread.join, 10)

        assert starved


class TestEnds:
    async def test_abort_is_a_message_whose_answer_comes_later(self, load: Load) -> None:
        result = ask_text(load({"tps": 100}), "@sim(ignore_abort=0.2)", max_tokens=5000)
        await result.__anext__()

        result.abort()

        assert result.aborted()
        assert not result.finished
        before = len(result.outputs[0].token_ids)
        await finished(result)
        assert result.outputs[0].finish_reason == "cancelled"
        assert len(result.outputs[0].token_ids) > before
        result.abort()

    async def test_failed_request_raises_once_and_then_waits_for_ever(self, load: Load, double: Any) -> None:
        result = ask_text(load(), "@sim(fail_at=0)")
        error = import_module("tensorrt_llm.executor.utils").RequestError

        with pytest.raises(error):
            await result.__anext__()
        with pytest.raises((asyncio.TimeoutError, TimeoutError)):
            await asyncio.wait_for(result.__anext__(), 0.3)
        assert error is import_module("tensorrt_llm.llmapi").RequestError

    async def test_dead_engine_tells_callers_and_not_those_that_wait(self, load: Load) -> None:
        llm = load({"tps": 100})
        waiting = ask(llm, max_tokens=5000)
        await waiting.__anext__()

        with pytest.raises(RuntimeError, match="scripted to crash"):
            await finished(ask_text(llm, "@sim(die_at=0)"))

        assert llm._executor.is_shutdown()
        with pytest.raises(RuntimeError, match="LLM is shutting down"):
            ask(llm)
        with pytest.raises((asyncio.TimeoutError, TimeoutError)):
            await asyncio.wait_for(waiting.aresult(), 0.3)

    async def test_closed_engine_takes_no_requests(self, load: Load) -> None:
        llm = load()
        llm.shutdown()
        llm.shutdown()

        with pytest.raises(RuntimeError, match="LLM is shutting down"):
            ask(llm)


class TestOptions:
    async def test_bias_is_added_to_what_the_engine_thinks(self, load: Load) -> None:
        llm = load()
        plain = (await finished(ask(llm, top_k=1))).outputs[0].token_ids
        forbidding, preferring = bias({plain[0]: -100.0}), bias({5: 100.0})

        without = (await finished(ask(llm, top_k=1, embedding_bias=forbidding))).outputs[0].token_ids
        only = (await finished(ask(llm, top_k=1, embedding_bias=preferring))).outputs[0].token_ids

        assert without[:8] == plain[1:9]
        assert only == [5] * 10

    async def test_answer_without_any_likely_token_goes_on(self, load: Load) -> None:
        llm = load()
        plain = (await finished(ask(llm, top_k=1, max_tokens=50))).outputs[0].token_ids
        every = bias(dict.fromkeys([*plain, 0], -100.0))

        output = (await finished(ask(llm, top_k=1, embedding_bias=every))).outputs[0]

        assert output.token_ids == [1] * 10

    async def test_answer_obeys_its_grammar(self, load: Load) -> None:
        guide = import_module("tensorrt_llm.llmapi").GuidedDecodingParams(grammar='root ::= "yes" | "nope"')
        llm = load(guided_decoding_backend="xgrammar")

        output = (await finished(ask(llm, guided_decoding=guide, ignore_eos=False))).outputs[0]

        assert (output.text, output.finish_reason) == ("yes", "stop")

    async def test_prompt_can_script_its_answer(self, load: Load) -> None:
        """The last script counts, and a grammar has to generate it."""
        llm = load(guided_decoding_backend="xgrammar")
        prompt = 'Say @say<<no>> or rather @say<<{"a": [1]}>>, please.'
        api = import_module("tensorrt_llm.llmapi")

        async def text(**fields: Any) -> str:
            output = await finished(ask_text(llm, prompt, ignore_eos=False, max_tokens=50, **fields))
            return str(output.outputs[0].text)

        allowed = api.GuidedDecodingParams(grammar='root ::= [a-z]+ | "{\\"a\\": [" [0-9] "]}"')
        excluded = api.GuidedDecodingParams(grammar="root ::= [a-z]+")

        assert await text() == await text(guided_decoding=allowed) == '{"a": [1]}'
        assert await text(guided_decoding=excluded) == "a"

    @pytest.mark.parametrize("kind", ["unreadable grammar", "half a vocabulary", "half precision"])
    async def test_what_is_wrong_in_one_request_fails_all_that_are_active(
        self, load: Load, kind: str
    ) -> None:
        torch, api = import_module("torch"), import_module("tensorrt_llm.llmapi")
        wrong: dict[str, Any] = {
            "unreadable grammar": {"guided_decoding": api.GuidedDecodingParams(grammar="root ::= (")},
            "half a vocabulary": {"embedding_bias": torch.zeros(64128)},
            "half precision": {"embedding_bias": torch.zeros(128256, dtype=torch.float16)},
        }[kind]
        llm = load({"tps": 100}, guided_decoding_backend="xgrammar")
        other = ask(llm, max_tokens=5000)
        await other.__anext__()

        for failed in (ask(llm, **wrong), other):
            with pytest.raises(api.RequestError, match="forwardAsync"):
                await finished(failed)
        assert (await finished(ask(llm))).outputs[0].finish_reason == "length"

    def test_guides_exclude_each_other(self) -> None:
        guides = import_module("tensorrt_llm.llmapi").GuidedDecodingParams

        with pytest.raises(ValueError, match="one guide"):
            guides(grammar="root ::= [a]", regex="a")
        with pytest.raises(TypeError):
            guides(ebnf="root ::= [a]")

    async def test_guides_need_an_engine_loaded_for_them(self, load: Load) -> None:
        guides = import_module("tensorrt_llm.llmapi").GuidedDecodingParams

        with pytest.raises(ValueError, match="guided_decoding_backend"):
            ask(load(), guided_decoding=guides(grammar="root ::= [a]"))
        with pytest.raises(NotImplementedError):
            ask(load(guided_decoding_backend="xgrammar"), guided_decoding=guides(json_object=True))


class TestRefusals:
    def test_unknown_sampling_field_is_a_type_error(self) -> None:
        with pytest.raises(TypeError):
            params(random_seed=3)

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"top_k": 1025}, ValueError),
            ({"top_p": 1.5}, ValueError),
            ({"seed": 2**64}, ValueError),
            ({"logprobs": 3}, ValueError),
            ({"prompt_logprobs": 1}, ValueError),
            ({"stop": ["x"], "end_id": 5}, RuntimeError),
            ({"n": 2}, NotImplementedError),
            ({"lookahead_config": (1, 1, 1)}, NotImplementedError),
        ],
    )
    async def test_what_a_request_may_not_ask(
        self, load: Load, fields: dict[str, Any], error: type[Exception]
    ) -> None:
        llm = load()

        with pytest.raises(error):
            ask(llm, **fields)

    async def test_requests_that_are_malformed(self, load: Load) -> None:
        llm = load()

        with pytest.raises(TypeError):
            llm.generate_async(inputs=[1.5], sampling_params=params(), streaming=True)
        with pytest.raises(TypeError):
            llm.generate_async(inputs=[1], sampling_params=params(), streaming=True, priority=0.5)

    async def test_lengths_are_checked_against_the_engine_on_every_call(self, load: Load) -> None:
        """At once where prompts are whole; where they are cut, by the worker, through the iterator."""
        whole, cut = load(enable_chunked_prefill=False), load(enable_chunked_prefill=True)
        error = import_module("tensorrt_llm.llmapi").RequestError

        with pytest.raises(ValueError, match="more than 8192"):
            ask(whole, [1] * 8190)
        assert ask(cut, [1] * 8190)
        refused = ask(cut, [1] * 8192)
        with pytest.raises(error, match="maximum input length 8191"):
            await finished(refused)

    async def test_longest_prompt_leaves_room_for_one_token(self, load: Load) -> None:
        """max_seq_len - 1, and no longer."""
        output = (await finished(ask(load(), [1] * 8191))).outputs[0]

        assert (len(output.token_ids), output.finish_reason) == (1, "length")

    async def test_empty_prompt_is_an_index_error(self, load: Load) -> None:
        llm = load()

        with pytest.raises(IndexError):
            llm.generate_async(inputs={"prompt_token_ids": []}, sampling_params=params(), streaming=True)

    def test_grammars_need_a_fast_tokenizer_even_if_nobody_sends_one(
        self, llama31_files: Path, tmp_path: Path, arguments: dict[str, Any]
    ) -> None:
        directory = with_slow_tokenizer(make_engine(tmp_path / "engine", llama31_files))
        llm = import_module("tensorrt_llm._tensorrt_engine").LLM

        with pytest.raises(AttributeError, match="backend_tokenizer"):
            llm(model=str(directory), **arguments, guided_decoding_backend="xgrammar")
        llm(model=str(directory), **arguments).shutdown()

    @pytest.mark.parametrize("quantised", [{"quant_method": "awq"}, {"quant_method": "modelopt"}])
    def test_quantised_checkpoints_are_built_from_modelopts_own_file_only(
        self, llama31_files: Path, tmp_path: Path, quantised: dict[str, Any]
    ) -> None:
        model = Path(shutil.copytree(llama31_files, tmp_path / "model"))
        (model / "config.json").write_text(json.dumps({**LLAMA_3_1_8B, "quantization_config": quantised}))

        with pytest.raises(NotImplementedError, match="Unsupported quantization_config"):
            import_module("tensorrt_llm._tensorrt_engine").LLM(model=str(model))

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"max_batch_size": 17}, RuntimeError),
            ({"max_num_tokens": 8193}, RuntimeError),
            ({"max_seq_len": 4096}, RuntimeError),
            ({"max_beam_width": 2}, RuntimeError),
            ({"tensor_parallel_size": 2}, ValueError),
            ({"guided_decoding_backend": "outlines"}, ValueError),
            ({"stream_interval": 5}, ValueError),
            ({"max_running_requests": 5}, ValueError),
            ({"max_batch_size": "16"}, ValueError),
        ],
    )
    def test_what_the_constructor_does_not_take(
        self,
        llama31_files: Path,
        tmp_path: Path,
        arguments: dict[str, Any],
        changes: dict[str, Any],
        error: type[Exception],
    ) -> None:
        directory = make_engine(tmp_path / "engine", llama31_files)
        llm = import_module("tensorrt_llm._tensorrt_engine").LLM

        with pytest.raises(error):
            llm(model=str(directory), **{**arguments, **changes})

    def test_default_limits_trip_over_a_smaller_engine(self, llama31_files: Path, tmp_path: Path) -> None:
        directory = make_engine(tmp_path / "engine", llama31_files)
        llm = import_module("tensorrt_llm._tensorrt_engine").LLM

        with pytest.raises(RuntimeError, match="max_batch_size 2048"):
            llm(model=str(directory))


class TestBuilding:
    async def test_checkpoint_is_built_saved_and_served(
        self, llama31_files: Path, tmp_path: Path, double: Any
    ) -> None:
        """The resulting limits are the builder's, not the ones that were passed."""
        model, saved = tmp_path / "model", tmp_path / "saved"
        shutil.copytree(llama31_files, model)
        (model / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
        api = import_module("tensorrt_llm.llmapi")
        build = api.BuildConfig(max_batch_size=4, max_num_tokens=2048, max_input_len=200_000)
        algos = {"quant_algo": api.QuantAlgo.FP8, "kv_cache_quant_algo": api.QuantAlgo.INT8}
        quant = api.QuantConfig(**algos)
        reuse = api.KvCacheConfig(enable_block_reuse=False)

        llm = import_module("tensorrt_llm._tensorrt_engine").LLM(
            model=str(model), build_config=build, quant_config=quant, kv_cache_config=reuse
        )
        llm.save(str(saved))
        llm.shutdown()

        document = json.loads((saved / "config.json").read_text())
        config, pretrained = document["build_config"], document["pretrained_config"]
        assert pretrained["quantization"]["quant_algo"] == "FP8"
        assert pretrained["quantization"]["kv_cache_quant_algo"] is None  # lost by modelopt 0.37
        assert pretrained["logits_dtype"] == "float16"
        assert (config["max_seq_len"], config["max_input_len"]) == (131072, 131072)
        assert config["plugin_config"]["use_paged_context_fmha"] is True
        assert config["kv_cache_type"] == "PAGED"
        assert {file.name for file in saved.iterdir()} == {
            "config.json",
            "rank0.engine",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        builder = import_module("tensorrt_llm.builder")
        assert builder.get_engine_version(str(saved)) == double.__version__ == "1.2.1"
