"""The llama.cpp engine with a small model: the contract of every backend, and its own behaviour."""

from __future__ import annotations

import asyncio
import math
import resource
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from inference_service.backends.base import Backend, BackendStartError, EngineRequestError
from inference_service.backends.llama_cpp.backend import LlamaCppBackend
from inference_service.backends.llama_cpp.loading import within_free_memory
from inference_service.backends.types import BackendDescription, EngineFinish
from inference_service.models.loader import ModelFile
from inference_service.prompt.tokenizer import Tokenizer
from tests.inference_service.backends.contract import (
    CONTEXT_LENGTH,
    BackendContract,
    FreshBackend,
    chat_ids,
    collect,
    ids_of,
    next_step,
    released,
    request,
    sampling,
    text_of,
)
from tests.inference_service.backends.contract_options import OptionsContract, logprobs_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


def make_backend(
    path: Path,
    tokenizer: Tokenizer,
    *,
    context_length: int = 256,
    max_concurrency: int = 2,
    prefill_chunk: int = 16,
) -> LlamaCppBackend:
    return LlamaCppBackend(
        path,
        tokenizer,
        context_length=context_length,
        max_concurrency=max_concurrency,
        threads=0,
        prefill_chunk=prefill_chunk,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(model_file: ModelFile, tokenizer: Tokenizer) -> AsyncIterator[Backend]:
    """One engine and one event loop for the module, since a backend belongs to the loop that started it."""
    backend = make_backend(
        model_file.path, tokenizer, context_length=CONTEXT_LENGTH, max_concurrency=4, prefill_chunk=16
    )
    await backend.start()
    yield backend
    await backend.close()


@pytest_asyncio.fixture(loop_scope="module")
async def fresh_backend(model_file: ModelFile, tokenizer: Tokenizer) -> AsyncIterator[FreshBackend]:
    made = []

    def make() -> Backend:
        made.append(make_backend(model_file.path, tokenizer, context_length=3_100, max_concurrency=4))
        return made[-1]

    yield make
    for backend in made:
        await backend.close()


class TestLlamaCppContract(BackendContract):
    """The contract of every backend on llama.cpp."""


class TestLlamaCppOptions(OptionsContract):
    """The contract of the options, of which llama.cpp refuses none."""


class TestTokens:
    async def test_it_gives_the_published_answer(self, backend: Backend, tokenizer: Tokenizer) -> None:
        prompt = chat_ids(tokenizer, "What is the capital of France?")

        steps = await collect(backend, request(prompt, 50, ignore_eos=False))

        assert "Paris" in text_of(steps, tokenizer)

    async def test_token_ids_of_characters_that_span_tokens_are_recovered(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        prompt = tokenizer.encode_text("😀" * 16)
        per_character = len(tokenizer.encode_text("😀"))

        steps = await collect(backend, request(prompt, 3 * per_character))

        assert per_character > 1
        assert text_of(steps, tokenizer) == "😀😀😀"
        assert ids_of(steps) == tokenizer.encode_text("😀😀😀")

    async def test_tokens_of_a_cut_character_are_counted_and_have_no_text(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        prompt = tokenizer.encode_text("😀" * 16)
        per_character = len(tokenizer.encode_text("😀"))

        steps = await collect(backend, request(prompt, 2 * per_character + 1))

        assert text_of(steps, tokenizer) == "😀😀"
        assert sum(s.token_count for s in steps) == 2 * per_character + 1
        assert len(ids_of(steps)) == 2 * per_character

    async def test_leading_space_of_the_first_token_is_kept(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        prompt = tokenizer.encode_text("red blue red blue red blue red blue red")

        steps = await collect(backend, request(prompt, 3))

        assert text_of(steps, tokenizer) == " blue blue blue" == tokenizer.decode(ids_of(steps))


class TestContext:
    async def test_every_slot_has_the_full_context_length(
        self, model_file: ModelFile, tokenizer: Tokenizer
    ) -> None:
        """llama.cpp rounds context lengths, and 300 is no multiple of its step; three slots share 900."""
        backend = make_backend(model_file.path, tokenizer, context_length=300, max_concurrency=3)
        description = await backend.start()
        prompt = tokenizer.encode_text(" one" * 200)[:200]

        answers = await asyncio.gather(*(collect(backend, request(prompt, 100)) for _ in range(3)))
        await backend.close()

        assert description == BackendDescription("llama_cpp", 300, 3, tokenizer.vocabulary_size)
        assert [sum(s.token_count for s in steps) for steps in answers] == [100, 100, 100]
        assert all(steps[-1].finish is EngineFinish.MAX_TOKENS for steps in answers)

    async def test_there_may_be_more_slots_than_tokens_in_a_prefill_chunk(
        self, model_file: ModelFile, tokenizer: Tokenizer
    ) -> None:
        """llama.cpp ends the whole process if a batch is smaller than the number of slots."""
        backend = make_backend(
            model_file.path, tokenizer, context_length=64, max_concurrency=12, prefill_chunk=1
        )
        await backend.start()
        prompt = tokenizer.encode_text("one two three")

        answers = await asyncio.gather(*(collect(backend, request(prompt, 12)) for _ in range(12)))
        await backend.close()

        assert [sum(s.token_count for s in steps) for steps in answers] == [12] * 12

    async def test_prefix_is_reused_unless_the_answer_must_be_reproducible(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        prompt = tokenizer.encode_text("The quick brown fox jumps over the lazy dog. " * 4)

        async def cached(*, reproducible: bool) -> int | None:
            chosen_by = sampling(temperature=0.7, reproducible=reproducible)
            steps = await collect(backend, request(prompt, 4, chosen_by=chosen_by))
            return next(s.cached_tokens for s in steps if s.cached_tokens is not None)

        await cached(reproducible=False)

        assert await cached(reproducible=False) == len(prompt) - 1
        assert await cached(reproducible=True) == 0


class TestSampling:
    @pytest.mark.parametrize(
        "likeliest_only",
        [
            sampling(temperature=2.0, top_p=0.0),
            sampling(temperature=2.0, top_k=1),
            sampling(temperature=2.0, min_p=1.0),
            sampling(temperature=1e-38),
        ],
        ids=["top_p", "top_k", "min_p", "temperature"],
    )
    async def test_narrowest_setting_of_each_filter_is_greedy(
        self, backend: Backend, tokenizer: Tokenizer, likeliest_only: object
    ) -> None:
        prompt = tokenizer.encode_text("Once upon a time there was")
        assert isinstance(likeliest_only, type(sampling()))

        greedy = await collect(backend, request(prompt, 12))
        narrow = await collect(backend, request(prompt, 12, chosen_by=likeliest_only))

        assert ids_of(narrow) == ids_of(greedy)

    async def test_frequency_penalty_counts_generated_tokens_only(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        """The word occurs so often in the prompt that counting these would forbid it."""
        prompt = tokenizer.encode_text("cat\n" * 40)

        steps = await collect(backend, request(prompt, 40, chosen_by=sampling(frequency_penalty=0.5)))

        assert text_of(steps, tokenizer).startswith("cat\n" * 5)
        assert text_of(steps, tokenizer) != "cat\n" * 20

    async def test_presence_penalty_ignores_words_of_the_prompt(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        prompt = tokenizer.encode_text("cat\n" * 40)

        steps = await collect(backend, request(prompt, 10, chosen_by=sampling(presence_penalty=2.0)))

        assert text_of(steps, tokenizer) == "cat\n" * 5

    async def test_repetition_penalty_covers_the_prompt(self, backend: Backend, tokenizer: Tokenizer) -> None:
        prompt = tokenizer.encode_text("cat\n" * 40)

        steps = await collect(backend, request(prompt, 10, chosen_by=sampling(repetition_penalty=2.0)))

        assert not text_of(steps, tokenizer).startswith("cat\n")

    async def test_seeds_of_64_bits_differ_in_their_upper_half(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        prompt = tokenizer.encode_text("Once upon a time there was")
        seeds = [5, 5 + (1 << 40), (1 << 64) - 1, (1 << 32) - 1, (1 << 32) - 1]

        answers = [
            ids_of(
                await collect(backend, request(prompt, 16, chosen_by=sampling(temperature=1.5, seed=seed)))
            )
            for seed in seeds
        ]

        assert answers[0] != answers[1]
        assert answers[3] == answers[4], "the engine's mark for a random seed got through"


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"chosen_by": sampling(temperature=2.0, top_p=0.5, seed=4)},
            {"chosen_by": sampling(frequency_penalty=2.0, presence_penalty=2.0, repetition_penalty=2.0)},
            {"logit_bias": {30: 100.0, 40: -100.0}},
            {"grammar": 'root ::= "yes"\n'},
        ],
        ids=["sampling", "penalties", "bias", "grammar"],
    )
    async def test_log_probabilities_are_those_of_the_unmodified_model(
        self, backend: Backend, tokenizer: Tokenizer, options: dict[str, Any]
    ) -> None:
        """They are taken before sampling, over the whole vocabulary."""
        prompt, everything = tokenizer.encode_text("Once upon a time there was"), tokenizer.vocabulary_size

        plain = logprobs_of(await collect(backend, request(prompt, 1, logprobs=everything)))[0]
        changed = logprobs_of(await collect(backend, request(prompt, 1, logprobs=everything, **options)))[0]

        assert dict(changed.top) == pytest.approx(dict(plain.top))
        assert math.fsum(math.exp(logprob) for _, logprob in plain.top) == pytest.approx(1.0, abs=1e-3)
        assert changed.logprob == dict(changed.top)[changed.token_id]

    async def test_partial_characters_have_log_probabilities_of_their_own_positions(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        """With greedy decoding each of them is the likeliest at its position."""
        engine_request = request(tokenizer.encode_text("😀" * 16), 3, logprobs=5)

        reported = logprobs_of(await collect(backend, engine_request))

        assert [found.token_id for found in reported] == tokenizer.encode_text("😀")
        assert [found.top[0] for found in reported] == [(found.token_id, found.logprob) for found in reported]

    async def test_an_unlikely_partial_character_is_found_in_the_whole_vocabulary(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        """A grammar forces a token that the model would never choose."""
        prompt = chat_ids(tokenizer, "What is the capital of France?")

        steps = await collect(backend, request(prompt, 50, logprobs=1, grammar='root ::= "ᚠᚢᚦ"\n'))

        reported = logprobs_of(steps)
        assert text_of(steps, tokenizer) == "ᚠᚢᚦ"
        assert len(reported) == sum(s.token_count for s in steps)
        assert min(found.logprob for found in reported) < -5.0


class TestFailures:
    async def test_an_engine_error_fails_only_its_request(
        self, backend: Backend, tokenizer: Tokenizer
    ) -> None:
        """The engine's message is not part of the error."""
        no_token = [tokenizer.vocabulary_size + 1]

        with pytest.raises(EngineRequestError) as failure:
            await collect(backend, request(no_token))

        assert "token" not in str(failure.value)
        await released(backend)
        assert backend.stats().alive
        assert len(await collect(backend, request(tokenizer.encode_text("one two"), 2))) > 0

    async def test_missing_file_is_named(self, tmp_path: Path, tokenizer: Tokenizer) -> None:
        with pytest.raises(BackendStartError, match=r"there is no file .*gone.gguf"):
            await make_backend(tmp_path / "gone.gguf", tokenizer).start()

    async def test_a_file_of_another_format_is_refused(self, tmp_path: Path, tokenizer: Tokenizer) -> None:
        path = tmp_path / "notes.gguf"
        path.write_text("These are notes.")

        with pytest.raises(BackendStartError, match="is not a GGUF file"):
            await make_backend(path, tokenizer).start()

    async def test_a_damaged_model_is_an_error_of_one_line(
        self, model_file: ModelFile, tmp_path: Path, tokenizer: Tokenizer
    ) -> None:
        path = tmp_path / "half.gguf"
        with model_file.path.open("rb") as whole:
            path.write_bytes(whole.read(4_000_000))

        with pytest.raises(BackendStartError, match="fetch it again") as failure:
            await make_backend(path, tokenizer).start()

        assert "\n" not in str(failure.value)

    async def test_a_context_beyond_the_memory_is_an_error_of_one_line(
        self, model_file: ModelFile, tokenizer: Tokenizer
    ) -> None:
        """A memory limit simulates a small machine: 8 slots of this model take 1.5 GB."""
        huge = make_backend(model_file.path, tokenizer, context_length=8_192, max_concurrency=8)
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 800_000_000, hard))

        try:
            with pytest.raises(BackendStartError, match="do not fit into memory"):
                await huge.start()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    async def test_the_engine_is_loaded_only_into_free_memory(self) -> None:
        """Without a limit the kernel overcommits, and kills the process later."""
        before = resource.getrlimit(resource.RLIMIT_AS)

        with within_free_memory(mapped_bytes=0):
            soft, _ = resource.getrlimit(resource.RLIMIT_AS)

        assert soft != resource.RLIM_INFINITY
        assert soft <= psutil.Process().memory_info().vms + psutil.virtual_memory().total
        assert resource.getrlimit(resource.RLIMIT_AS) == before

    async def test_context_beyond_the_model_is_refused(
        self, model_file: ModelFile, tokenizer: Tokenizer
    ) -> None:
        with pytest.raises(BackendStartError, match=r"context_length: .* 8192 tokens"):
            await make_backend(model_file.path, tokenizer, context_length=9_000, max_concurrency=1).start()

    async def test_too_many_slots_are_refused(self, model_file: ModelFile, tokenizer: Tokenizer) -> None:
        with pytest.raises(BackendStartError, match=r"max_concurrency: .* 256"):
            await make_backend(model_file.path, tokenizer, max_concurrency=257).start()

    async def test_the_error_for_a_missing_library_says_what_to_install(
        self, model_file: ModelFile, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "xllamacpp", None)

        with pytest.raises(BackendStartError, match=r"pip install .*\[embedded\]"):
            await make_backend(model_file.path, tokenizer).start()


class TestProcess:
    async def test_the_engine_opens_no_port(self, backend: Backend, tokenizer: Tokenizer) -> None:
        """llama-server's HTTP port cannot be turned off, so the backend hides it."""
        assert len(await collect(backend, request(tokenizer.encode_text("one"), 1))) > 0

        assert not _listening_tcp() & _own_sockets()
        assert not _reachable_unix(_own_sockets())

    async def test_the_package_can_be_imported_without_the_engine(self) -> None:
        """Serving another engine neither needs llama.cpp nor waits for its import."""
        script = "import sys, inference_service.backends.llama_cpp; print('xllamacpp' in sys.modules)"

        assert await _python(script) == (0, "False\n", "")

    async def test_the_interpreter_can_exit_during_a_generation(self, model_file: ModelFile) -> None:
        script = textwrap.dedent(
            f"""
            import asyncio
            from pathlib import Path
            from inference_service.backends.llama_cpp import LlamaCppBackend
            from inference_service.models.loader import ModelFile, load
            from tests.inference_service.backends.contract import request

            async def main():
                await backend.start()
                steps = [backend.generate(request([504, 3575], 1500)) for _ in range(2)]
                for generation in steps:
                    await generation.__anext__()

            model = ModelFile("small", Path({str(model_file.path)!r}), None)
            backend = LlamaCppBackend(
                model.path, load(model).tokenizer,
                context_length=2048, max_concurrency=2, threads=0, prefill_chunk=16,
            )
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            loop.close()
            print("done")
            """
        )

        status, out, errors = await _python(script)

        assert (status, out) == (0, "done\n"), errors

    async def test_engine_writes_nothing_to_the_terminal(
        self, model_file: ModelFile, tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        backend = make_backend(model_file.path, tokenizer)
        await backend.start()
        async_steps = backend.generate(request(tokenizer.encode_text("one two"), 8))
        await next_step(async_steps)
        await async_steps.aclose()
        await backend.close()

        assert capfd.readouterr() == ("", "")


def _own_sockets() -> set[str]:
    """The inodes of the sockets of this process."""
    links = [_target(descriptor) for descriptor in Path("/proc/self/fd").iterdir()]
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        # The descriptor of the directory listing itself.
        return ""


def _listening_tcp() -> set[str]:
    """The inodes of all listening TCP sockets."""
    listening = "0A"
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/self/net", table).read_text().splitlines()[1:]
    ]
    return {row[9] for row in rows if row[3] == listening}


def _reachable_unix(inodes: set[str]) -> list[str]:
    """The paths of the unix sockets that have one."""
    rows = [line.split() for line in Path("/proc/self/net/unix").read_text().splitlines()[1:]]
    return [row[7] for row in rows if len(row) > 7 and row[6] in inodes and Path(row[7]).exists()]


async def _python(script: str) -> tuple[int | None, str, str]:
    """Run a script in a new interpreter. Return exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()
