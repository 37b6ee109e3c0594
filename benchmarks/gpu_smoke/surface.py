"""Prints the surface of the installed TensorRT-LLM as JSON: names, defaults, and modules.

Needs nothing but the library. It runs in its own process, since the import starts MPI and may crash.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

Names = dict[str, str]
"""Name → its default as text; empty where it has no default."""

MARK = "gpu-smoke: "
"""Marks the line that holds the document, since the library prints lines, too."""
_REQUIRED = "(required)"
_ATTRIBUTE = re.compile(r"^\s+self\.([a-z]\w*)(?::[^=\n]+)?\s*=[^=]", re.MULTILINE)


def parameters(function: Any) -> Names:
    """The parameters of a function, without `self`."""
    found = inspect.signature(function).parameters
    return {name: _shown(p.default, p.empty) for name, p in found.items() if name != "self"}


def fields(kind: Any) -> Names:
    """The fields of a dataclass, a pydantic model, or another class with a constructor."""
    if dataclasses.is_dataclass(kind):
        return {field.name: _shown(field.default, dataclasses.MISSING) for field in dataclasses.fields(kind)}
    if hasattr(kind, "model_fields"):
        return {
            name: "(made)" if field.default_factory else _shown(field.get_default(), ...)
            for name, field in kind.model_fields.items()
        }
    return parameters(kind.__init__)


def members(kind: Any) -> Names:
    """The public members, including those that methods set."""
    names = {name for name in dir(kind) if not name.startswith("_") or name == "__aiter__"}
    for base in kind.__mro__[:-1]:
        names.update(_ATTRIBUTE.findall(_source(base)))
    return dict.fromkeys(sorted(names | set(getattr(kind, "__dataclass_fields__", ()))), "")


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # written in C++
        return ""


def choices(kind: Any) -> Names:
    """The members of an enumeration, also of one that is written in C++."""
    known = getattr(kind, "__members__", None)
    return dict.fromkeys(sorted(known if known is not None else members(kind)), "")


_API = "tensorrt_llm.llmapi"
_ARGS = f"{_API}.llm_args"
_RESULT = "tensorrt_llm.executor.result"
PARTS: Mapping[str, tuple[Callable[[Any], Names], tuple[str, ...]]] = {
    "LLM": (members, ("tensorrt_llm._tensorrt_engine:LLM",)),
    "LLM.__init__": (parameters, ("tensorrt_llm._tensorrt_engine:LLM.__init__",)),
    "LLM.generate_async": (parameters, ("tensorrt_llm._tensorrt_engine:LLM.generate_async",)),
    "LLM.get_stats": (parameters, ("tensorrt_llm._tensorrt_engine:LLM.get_stats",)),
    "LLM.get_stats_async": (parameters, ("tensorrt_llm._tensorrt_engine:LLM.get_stats_async",)),
    "LLM.save": (parameters, ("tensorrt_llm._tensorrt_engine:LLM.save",)),
    "LLM.shutdown": (parameters, ("tensorrt_llm._tensorrt_engine:LLM.shutdown",)),
    "TrtLlmArgs": (
        fields,
        (f"{_ARGS}:TrtLlmArgs", f"{_API}:TrtLlmArgs", "tensorrt_llm.arguments:TrtLlmArgs"),
    ),
    "SamplingParams": (fields, ("tensorrt_llm:SamplingParams",)),
    "GuidedDecodingParams": (fields, (f"{_API}:GuidedDecodingParams",)),
    "KvCacheConfig": (fields, (f"{_API}:KvCacheConfig",)),
    "SchedulerConfig": (fields, (f"{_API}:SchedulerConfig",)),
    "DynamicBatchConfig": (fields, (f"{_API}:DynamicBatchConfig",)),
    "ExtendedRuntimePerfKnobConfig": (fields, (f"{_API}:ExtendedRuntimePerfKnobConfig",)),
    "BuildConfig": (fields, (f"{_API}:BuildConfig", "tensorrt_llm.builder:BuildConfig")),
    "PluginConfig": (
        fields,
        ("tensorrt_llm.plugin:PluginConfig", f"{_API}:PluginConfig", "tensorrt_llm.builder:PluginConfig"),
    ),
    "QuantConfig": (fields, (f"{_API}:QuantConfig",)),
    "CalibConfig": (fields, (f"{_API}:CalibConfig",)),
    "QuantAlgo": (choices, (f"{_API}:QuantAlgo",)),
    "CapacitySchedulerPolicy": (choices, (f"{_API}:CapacitySchedulerPolicy",)),
    "ContextChunkingPolicy": (choices, (f"{_API}:ContextChunkingPolicy",)),
    "RequestOutput": (members, (f"{_API}:RequestOutput", f"{_RESULT}:RequestOutput")),
    "CompletionOutput": (members, (f"{_API}:CompletionOutput", f"{_RESULT}:CompletionOutput")),
    "xgrammar.Grammar.from_ebnf": (parameters, ("xgrammar:Grammar.from_ebnf",)),
    "RequestError": (members, ("tensorrt_llm.executor.utils:RequestError", f"{_API}:RequestError")),
}
"""Part → how to inspect it, and its possible places; our code expects the first."""


def surface() -> dict[str, Any]:
    """Describe every part; a part that cannot be read is reported with the reason."""
    package = import_module("tensorrt_llm")
    return {
        "version": str(getattr(package, "__version__", "unknown")),
        "file": str(package.__file__),
        "parts": {name: _part(look, places) for name, (look, places) in PARTS.items()},
    }


def _part(look: Callable[[Any], Names], places: tuple[str, ...]) -> dict[str, Any]:
    reasons = []
    for place in places:
        try:
            return {"where": place, "names": look(_find(place))}
        except Exception as error:
            reasons.append(f"{place}: {type(error).__name__}: {error}")
    return {"where": None, "names": {}, "reason": "; ".join(reasons)}


def _find(place: str) -> Any:
    module, _, path = place.partition(":")
    found: Any = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _shown(default: object, missing: object) -> str:
    if default is missing or type(default).__name__ == "PydanticUndefinedType":
        return _REQUIRED
    if isinstance(default, enum.Enum):
        return default.name
    # Addresses differ from run to run.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(default))[:200]


if __name__ == "__main__":
    sys.stdout.write(f"\n{MARK}{json.dumps(surface())}\n")
