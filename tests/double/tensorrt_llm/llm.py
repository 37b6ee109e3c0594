"""`tensorrt_llm._tensorrt_engine.LLM`."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from .arguments import parse_arguments
from .executor.executor import Executor
from .executor.result import RequestOutput
from .executor.sequence import Request
from .loading import engine_directory, load_executor
from .sampling_params import SamplingParams, check
from .tokenizer import Tokenizer


class LLM:
    """Loads an engine directory, or builds one from a checkpoint and loads it."""

    def __init__(  # noqa: PLR0917  the library's own signature
        self,
        model: str,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._executor: Executor | None = None
        self.args = parse_arguments(
            model=model,
            tokenizer=tokenizer,
            tokenizer_mode=tokenizer_mode,
            skip_tokenizer_init=skip_tokenizer_init,
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=tensor_parallel_size,
            dtype=dtype,
            revision=revision,
            tokenizer_revision=tokenizer_revision,
            **kwargs,
        )
        self._workspace = tempfile.TemporaryDirectory(suffix="-llm-workspace")
        try:
            self._engine_dir = engine_directory(self.args, Path(self._workspace.name))
            self._tokenizer = Tokenizer(Path(self.args.tokenizer or self.args.model))
            if self.args.guided_decoding_backend is not None and not self._tokenizer.is_fast:
                # xgrammar is set up at load, even if no request has a grammar.
                raise AttributeError("'SlowTokenizer' object has no attribute 'backend_tokenizer'")
            self._executor = load_executor(self.args, self._engine_dir, self._tokenizer)
        except BaseException:
            self._workspace.cleanup()
            raise

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def generate_async(  # noqa: PLR0917  the library's own signature
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        _postproc_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        """Send a request; the result fills while it is iterated."""
        if self._executor is None or self._executor.is_shutdown():
            raise RuntimeError("LLM is shutting down")
        unused = (
            lora_request,
            prompt_adapter_request,
            kv_cache_retention_config,
            disaggregated_params,
            _postproc_params,
            scheduling_params,
        )
        if any(argument is not None for argument in unused) or not streaming:
            raise NotImplementedError("the double takes plain streaming requests only")
        params = SamplingParams() if sampling_params is None else sampling_params
        if not isinstance(params, SamplingParams):
            raise TypeError(f"sampling_params must be SamplingParams, not {type(params)}")
        prompt_ids = self._prompt_ids(inputs)
        check(
            params,
            gathers_logits=self.args.gather_generation_logits,
            guided_backend=self.args.guided_decoding_backend,
        )
        return self._executor.submit(self._request(prompt_ids, params, cache_salt))

    def get_stats(self, timeout: float | None = 2) -> list[dict[str, Any]]:
        """Readings of the iterations since the last call; blocks until there are some, or for `timeout`."""
        executor = self._executor
        return [] if executor is None else executor.take_stats(2 if timeout is None else timeout)

    async def get_stats_async(self, timeout: float | None = 2) -> AsyncIterator[dict[str, Any]]:
        """The same blocking call inside a coroutine: the event loop is blocked until it returns."""
        while readings := self.get_stats(timeout):
            for reading in readings:
                yield reading

    def save(self, engine_dir: str) -> None:
        """Copy the engine, and the files whose names start with `tokenizer`."""
        target = Path(engine_dir)
        if target.absolute() == self._engine_dir.absolute():
            return
        shutil.copytree(self._engine_dir, target, dirs_exist_ok=True)
        for file in Path(self.args.model).glob("tokenizer*"):
            shutil.copy(file, target)

    def shutdown(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()
        self._workspace.cleanup()

    def _prompt_ids(self, inputs: Any) -> list[int]:
        if isinstance(inputs, dict) and inputs.keys() == {"prompt_token_ids"}:
            inputs = inputs["prompt_token_ids"]
        if not isinstance(inputs, list) or not all(type(index) is int for index in inputs):
            raise TypeError(f"the double takes a list of token ids, not {type(inputs)}")
        if not inputs:
            # The library distinguishes ids from texts by the first element.
            raise IndexError("list index out of range")
        return inputs

    def _request(self, prompt_ids: list[int], params: SamplingParams, salt: str | None) -> Request:
        """Reads config.json for every request, as the library does."""
        config = json.loads((self._engine_dir / "config.json").read_text())
        longest = config["build_config"]["max_seq_len"]
        needed = len(prompt_ids) + (params.max_tokens or 0)
        if not self.args.enable_chunked_prefill and needed > longest:
            raise ValueError(f"{needed} tokens of prompt and output are more than {longest}")
        # The worker refuses a prompt that is too long, and the request's iterator raises.
        remaining = longest - len(prompt_ids)
        end_id = self._tokenizer.eos_id if params.end_id is None else params.end_id
        return Request(
            id=0,
            prompt_ids=tuple(prompt_ids),
            params=params,
            max_tokens=remaining if params.max_tokens is None else min(params.max_tokens, remaining),
            end_id=-1 if params.ignore_eos else end_id,
            vocabulary_size=config["pretrained_config"]["vocab_size"],
            cache_salt=salt,
        )
