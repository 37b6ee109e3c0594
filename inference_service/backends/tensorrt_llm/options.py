"""What a request may ask for beyond sampling, and the parts of the installed library that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Set
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from inference_service.backends.tensorrt_llm.guided import GuidedDecoding

LOGPROBS_SWITCH = "_return_log_probs"
"""A private attribute of SamplingParams: the library's own server asks for log probabilities by it."""
FIELDS = frozenset({"embedding_bias", "guided_decoding"})
"""Of SamplingParams."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was found; what was not is refused by name."""

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
    """Look for them.

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
