"""The double behaves as TensorRT-LLM is known to behave."""

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
    """The arguments for an engine with LIMITS."""
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
    async def test_a_result_yields_itself_with_cumulative_ids(self, load: Load) -> None:
        result = ask(load())
        lengths = []
        async for turn in result:
            assert turn is result
            lengths.append(len(result.outputs[0].token_ids))

        assert lengths == list(range(1, 11))
        assert result.finished
        assert result.outputs[0].finish_reason == "length"

    async def test_diff_members_hold_only_the_last_response(self, load: Load) -> None:
        result = ask(load())
        await asyncio.sleep(0.3)
        await result.__anext__()
        await result.__anext__()

        assert len(result.outputs[0].token_ids_diff) == 1
        assert len(result.outputs[0].token_ids) == 2

    async def test_a_stop_word_is_emitted_and_later_removed(self, load: Load) -> None:
        llm = load()
        result = ask(llm, ignore_eos=False, end_id=128001, stop_token_ids=[128009], max_tokens=50)
        seen: list[list[int]] = [list(turn.outputs[0].token_ids) async for turn in result]

        assert seen[-2][-1] == 128009
        assert seen[-1] == seen[-2][:-1]
        assert (result.outputs[0].finish_reason, result.outputs[0].stop_reason) == ("stop", 128009)

    async def test_stop_words_end_answers_that_ignore_the_end_of_sequence(self, load: Load) -> None:
        result = await finished(ask(load(), stop_token_ids=[1917], max_tokens=50, end_id=128001))

        assert (result.outputs[0].finish_reason, result.outputs[0].stop_reason) == ("stop", 1917)

    async def test_cached_tokens_are_never_reported(self, load: Load) -> None:
        llm, prompt = load(), [9906, 1917] * 100
        await finished(ask(llm, prompt))

        again = await finished(ask(llm, prompt))

        assert again.cached_tokens == 0
        assert sum(s["kvCacheStats"]["reusedBlocks"] for s in llm.get_stats(0.1)[-1:]) > 0

    async def test_asynchronous_statistics_block_the_loop(self, load: Load) -> None:
        """The coroutine makes the blocking call."""
        llm = load()
        await finished(ask(llm))
        assert llm.get_stats(1)
        while llm.get_stats(0.2):
            # The engine may write its last statistics shortly after the end of the request.
            pass
        turns: list[int] = []
        asyncio.get_running_loop().call_later(0.05, turns.append, 1)

        assert [reading async for reading in llm.get_stats_async(0.5)] == []

        assert not turns

    async def test_the_end_id_is_never_emitted(self, load: Load) -> None:
        result = await finished(ask(load(), ignore_eos=False, end_id=128009, max_tokens=50))

        assert 128009 not in result.outputs[0].token_ids
        assert (result.outputs[0].finish_reason, result.outputs[0].stop_reason) == ("stop", None)

    async def test_text_is_generated_unless_detokenize_is_off(self, load: Load) -> None:
        llm = load()

        assert (await finished(ask(llm))).outputs[0].text.startswith("[")
        assert (await finished(ask(llm, detokenize=False))).outputs[0].text == ""

    async def test_defaults_are_greedy_with_32_tokens_and_seed_0(self, load: Load) -> None:
        llm, plain = load(), import_module("tensorrt_llm").SamplingParams
        inputs = {"prompt_token_ids": [9906, 1917]}

        first = await finished(llm.generate_async(inputs=inputs, sampling_params=plain(), streaming=True))
        other = await finished(ask(llm, temperature=1.0, top_p=None, seed=7))
        sampled = [await finished(ask(llm, seed=seed)) for seed in (None, 0, 7)]

        assert plain().max_tokens == 32
        assert first.outputs[0].token_ids[:9] == other.outputs[0].token_ids[:9]
        assert sampled[0].outputs[0].token_ids == sampled[1].outputs[0].token_ids
        assert sampled[1].outputs[0].token_ids != sampled[2].outputs[0].token_ids

    async def test_the_private_switch_enables_log_probabilities(self, load: Load) -> None:
        llm, sampling_params = load(), params()
        sampling_params._return_log_probs = True
        inputs = {"prompt_token_ids": [9906]}

        result = await finished(
            llm.generate_async(inputs=inputs, sampling_params=sampling_params, streaming=True)
        )

        output = result.outputs[0]
        assert output.logprobs == [-(1 + token % 97) / 64 for token in output.token_ids]
        assert output.cumulative_logprob == sum(output.logprobs)

    async def test_the_log_probability_of_a_removed_stop_word_stays(self, load: Load) -> None:
        """The list of ids shrinks, but the list of log probabilities does not."""
        llm = load()
        sampling_params = params(ignore_eos=False, end_id=128001, stop_token_ids=[128009], max_tokens=50)
        sampling_params._return_log_probs = True
        inputs = {"prompt_token_ids": [9906]}

        output = (
            await finished(llm.generate_async(inputs=inputs, sampling_params=sampling_params, streaming=True))
        ).outputs[0]

        assert output.stop_reason == 128009
        assert len(output.logprobs) == len(output.token_ids) + 1

    async def test_readers_in_other_event_loops_are_not_woken(self, load: Load) -> None:
        """Only the event loop of the first request is woken."""
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
    async def test_an_abort_is_confirmed_by_a_later_response(self, load: Load) -> None:
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

    async def test_a_failed_request_raises_once_and_then_waits_for_ever(
        self, load: Load, double: Any
    ) -> None:
        result = ask_text(load(), "@sim(fail_at=0)")
        error = import_module("tensorrt_llm.executor.utils").RequestError

        with pytest.raises(error):
            await result.__anext__()
        with pytest.raises((asyncio.TimeoutError, TimeoutError)):
            await asyncio.wait_for(result.__anext__(), 0.3)
        assert error is import_module("tensorrt_llm.llmapi").RequestError

    async def test_a_dead_engine_refuses_new_requests_and_leaves_readers_waiting(self, load: Load) -> None:
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

    async def test_a_closed_engine_refuses_requests(self, load: Load) -> None:
        llm = load()
        llm.shutdown()
        llm.shutdown()

        with pytest.raises(RuntimeError, match="LLM is shutting down"):
            ask(llm)


class TestOptions:
    async def test_a_bias_is_added_to_the_logits(self, load: Load) -> None:
        llm = load()
        plain = (await finished(ask(llm, top_k=1))).outputs[0].token_ids
        forbidding, preferring = bias({plain[0]: -100.0}), bias({5: 100.0})

        without = (await finished(ask(llm, top_k=1, embedding_bias=forbidding))).outputs[0].token_ids
        only = (await finished(ask(llm, top_k=1, embedding_bias=preferring))).outputs[0].token_ids

        assert without[:8] == plain[1:9]
        assert only == [5] * 10

    async def test_an_answer_whose_tokens_are_all_unlikely_continues(self, load: Load) -> None:
        llm = load()
        plain = (await finished(ask(llm, top_k=1, max_tokens=50))).outputs[0].token_ids
        every = bias(dict.fromkeys([*plain, 0], -100.0))

        output = (await finished(ask(llm, top_k=1, embedding_bias=every))).outputs[0]

        assert output.token_ids == [1] * 10

    async def test_an_answer_follows_its_grammar(self, load: Load) -> None:
        guide = import_module("tensorrt_llm.llmapi").GuidedDecodingParams(grammar='root ::= "yes" | "nope"')
        llm = load(guided_decoding_backend="xgrammar")

        output = (await finished(ask(llm, guided_decoding=guide, ignore_eos=False))).outputs[0]

        assert (output.text, output.finish_reason) == ("yes", "stop")

    async def test_a_prompt_can_script_its_answer(self, load: Load) -> None:
        """The last script counts; with a grammar only if the grammar generates it."""
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
    async def test_an_invalid_request_fails_all_active_requests(self, load: Load, kind: str) -> None:
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

    def test_constraints_exclude_each_other(self) -> None:
        guides = import_module("tensorrt_llm.llmapi").GuidedDecodingParams

        with pytest.raises(ValueError, match="one guide"):
            guides(grammar="root ::= [a]", regex="a")
        with pytest.raises(TypeError):
            guides(ebnf="root ::= [a]")

    async def test_constraints_need_an_engine_that_was_loaded_for_them(self, load: Load) -> None:
        guides = import_module("tensorrt_llm.llmapi").GuidedDecodingParams

        with pytest.raises(ValueError, match="guided_decoding_backend"):
            ask(load(), guided_decoding=guides(grammar="root ::= [a]"))
        with pytest.raises(NotImplementedError):
            ask(load(guided_decoding_backend="xgrammar"), guided_decoding=guides(json_object=True))


class TestRefusals:
    def test_an_unknown_sampling_field_is_a_type_error(self) -> None:
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
    async def test_unsupported_features_of_requests_are_refused(
        self, load: Load, fields: dict[str, Any], error: type[Exception]
    ) -> None:
        llm = load()

        with pytest.raises(error):
            ask(llm, **fields)

    async def test_malformed_requests_are_refused(self, load: Load) -> None:
        llm = load()

        with pytest.raises(TypeError):
            llm.generate_async(inputs=[1.5], sampling_params=params(), streaming=True)
        with pytest.raises(TypeError):
            llm.generate_async(inputs=[1], sampling_params=params(), streaming=True, priority=0.5)

    async def test_lengths_are_checked_against_the_engine_on_every_call(self, load: Load) -> None:
        """They are refused at once without chunked prefill; with it, by the worker through the iterator."""
        whole, cut = load(enable_chunked_prefill=False), load(enable_chunked_prefill=True)
        error = import_module("tensorrt_llm.llmapi").RequestError

        with pytest.raises(ValueError, match="more than 8192"):
            ask(whole, [1] * 8190)
        assert ask(cut, [1] * 8190)
        refused = ask(cut, [1] * 8192)
        with pytest.raises(error, match="maximum input length 8191"):
            await finished(refused)

    async def test_the_longest_prompt_leaves_one_token(self, load: Load) -> None:
        """It has max_seq_len - 1 tokens."""
        output = (await finished(ask(load(), [1] * 8191))).outputs[0]

        assert (len(output.token_ids), output.finish_reason) == (1, "length")

    async def test_an_empty_prompt_is_an_index_error(self, load: Load) -> None:
        llm = load()

        with pytest.raises(IndexError):
            llm.generate_async(inputs={"prompt_token_ids": []}, sampling_params=params(), streaming=True)

    def test_grammar_support_needs_a_fast_tokenizer_at_load(
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
    def test_unsupported_arguments_of_the_constructor_are_refused(
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

    def test_default_limits_above_those_of_the_engine_are_refused(
        self, llama31_files: Path, tmp_path: Path
    ) -> None:
        directory = make_engine(tmp_path / "engine", llama31_files)
        llm = import_module("tensorrt_llm._tensorrt_engine").LLM

        with pytest.raises(RuntimeError, match="max_batch_size 2048"):
            llm(model=str(directory))


class TestBuilding:
    async def test_a_checkpoint_is_built_saved_and_loaded(
        self, llama31_files: Path, tmp_path: Path, double: Any
    ) -> None:
        """The limits are those that the builder chose, not those that were passed."""
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
        assert pretrained["quantization"]["kv_cache_quant_algo"] is None  # ignored by modelopt 0.37
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
