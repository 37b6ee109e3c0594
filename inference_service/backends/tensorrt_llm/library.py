"""The installed TensorRT-LLM: its version, its parts, and what a request may ask for.

The pinned line is 1.2: 1.2.1 is the last stable release that runs compiled engines, and names differ
between releases. So the service checks what the library has. It does not start if a part that
serving needs is missing. It refuses, by name, what a request uses and the library lacks.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Set
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from engines.facts.machine import writable_workspace
from engines.verification.checks import SUPPORTED, is_supported
from inference_service.backends.base import BackendStartError
from inference_service.backends.tensorrt_llm.sampling import GuidedDecoding

NEEDED_FIELDS = frozenset({
    "end_id", "pad_id", "max_tokens", "stop_token_ids", "ignore_eos", "detokenize", "temperature", "top_k",
    "top_p", "seed", "n",
})  # fmt: skip
OPTIONAL_FIELDS = frozenset({
    "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "prompt_ignore_length",
    "add_special_tokens", "exclude_input_from_output", "include_stop_str_in_output", "use_beam_search",
})  # fmt: skip
_ADDITIVE_PENALTIES = frozenset({"presence_penalty", "frequency_penalty"})
NEEDED_ARGUMENTS = frozenset({"inputs", "sampling_params", "streaming"})


@dataclass(frozen=True, slots=True)
class Library:
    """The parts that serving uses."""

    version: str
    llm: Callable[..., Any]
    """The class of compiled engines."""
    sampling_params: Callable[..., Any]
    kv_cache_config: Callable[..., Any]
    fields: frozenset[str]
    """Of the sampling fields that this service sets, those that exist."""
    options: Options

    @property
    def refused(self) -> frozenset[str]:
        """Parameters, by their public names, that this version cannot honour.

        Presence and frequency penalties count the prompt's tokens, unless the library can exclude them.
        """
        missing = (_ADDITIVE_PENALTIES | {"min_p", "repetition_penalty"}) - self.fields
        if "prompt_ignore_length" not in self.fields:
            missing |= _ADDITIVE_PENALTIES
        return missing | self.options.refused


def load_library() -> Library:
    """Import TensorRT-LLM, which takes many seconds, and look at what is there.

    Raises:
        BackendStartError: it is not installed, broken, of another version, or a needed part is missing.

    """
    os.environ.update(writable_workspace(os.environ))
    package = _import("tensorrt_llm")
    version = str(getattr(package, "__version__", "unknown"))
    if not is_supported(version):
        raise BackendStartError(f"TensorRT-LLM {version} is installed; engines are served by {SUPPORTED}")
    llm = _part(_import("tensorrt_llm._tensorrt_engine"), "LLM")
    sampling_params = _part(package, "SamplingParams")
    names = set(inspect.signature(sampling_params).parameters)
    arguments = set(inspect.signature(llm.generate_async).parameters)
    missing = sorted(NEEDED_FIELDS - names) + sorted(NEEDED_ARGUMENTS - arguments)
    if missing:
        raise BackendStartError(f"TensorRT-LLM {version} lacks {', '.join(missing)}; install release 1.2.1")
    return Library(
        version=version,
        llm=llm,
        sampling_params=sampling_params,
        kv_cache_config=_part(_import("tensorrt_llm.llmapi"), "KvCacheConfig"),
        fields=frozenset(names) & (NEEDED_FIELDS | OPTIONAL_FIELDS),
        options=find_options(sampling_params, names),
    )


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt_llm":
            raise BackendStartError(
                "TensorRT-LLM is not installed: run the service in NVIDIA's release image of 1.2.1, or "
                "install tensorrt_llm==1.2.1 beside it"
            ) from None
        reason = " ".join(str(error).split())[:300]
        raise BackendStartError(f"TensorRT-LLM is installed but cannot be imported: {reason}") from error


def _part(module: ModuleType, name: str) -> Any:
    part = getattr(module, name, None)
    if part is None:
        raise BackendStartError(f"this TensorRT-LLM has no {module.__name__}.{name}; install release 1.2.1")
    return part


LOGPROBS_SWITCH = "_return_log_probs"
"""A private attribute of SamplingParams: the library's own server requests log probabilities by it."""
FIELDS = frozenset({"embedding_bias", "guided_decoding"})
"""Of SamplingParams."""


@dataclass(frozen=True, slots=True)
class Options:
    """The optional parts; a parameter that needs a missing one is refused by name."""

    torch: Any = None
    """PyTorch, which biases are made with; None: the library takes none."""
    gives_logprobs: bool = False
    guided: GuidedDecoding | None = None
    """None: the library takes no grammars, or they cannot be read before it does."""

    @property
    def refused(self) -> frozenset[str]:
        """Parameters, by their public names, that cannot be honoured.

        The likeliest alternatives are never given. The engine would have to be loaded to gather all logits,
        which takes another, slower process model, and whose aborted requests have crashed the library
        (TensorRT-LLM issue 10810).
        """
        found = {"logit_bias": self.torch, "logprobs": self.gives_logprobs, "grammar": self.guided}
        return frozenset(name for name, part in found.items() if not part) | {"top_logprobs"}


def find_options(sampling_params: Callable[..., Any], names: Set[str]) -> Options:
    """Find the optional parts.

    Args:
        sampling_params: the library's class.
        names: the keywords that it takes.

    """
    return Options(
        torch=_found("torch") if "embedding_bias" in names else None,
        gives_logprobs=hasattr(sampling_params(), LOGPROBS_SWITCH),
        guided=_guided() if "guided_decoding" in names else None,
    )


def _guided() -> GuidedDecoding | None:
    params = _found("tensorrt_llm.llmapi", "GuidedDecodingParams")
    read = _found("xgrammar", "Grammar", "from_ebnf")
    if params is None or read is None or "grammar" not in inspect.signature(params).parameters:
        return None
    return GuidedDecoding(params, read)


def _found(module: str, *path: str) -> Any:
    """A part of an installed module; None where there is none."""
    try:
        part: Any = import_module(module)
    except (ImportError, OSError):
        return None
    for name in path:
        part = getattr(part, name, None)
    return part
