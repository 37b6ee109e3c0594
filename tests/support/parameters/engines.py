"""The descriptions of all engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from inference_service.backends.tensorrt_llm.library import OPTIONAL_FIELDS, Library, Options
from inference_service.backends.tensorrt_llm.sampling import MAX_TOP_K, GuidedDecoding
from inference_service.scheduling.served_model import ServedModel
from tests.support.parameters.sample import ALIAS
from tests.support.service import MODEL_ID, running_service

LLAMA_CPP, SIMULATED, TENSORRT_LLM = "llama_cpp", "simulated", "tensorrt_llm"
NAMES = (LLAMA_CPP, SIMULATED, TENSORRT_LLM)


@dataclass(frozen=True, slots=True)
class Engines:
    """The served model on each engine."""

    at_best: Mapping[str, ServedModel]
    """The served model by the engine's name."""
    at_worst: ServedModel
    """The served model on a TensorRT-LLM that has only what serving needs."""


async def load_engines() -> Engines:
    """Load the descriptions; engines that need no GPU are started."""
    started = {name: await _started(name) for name in (LLAMA_CPP, SIMULATED)}
    best, worst = (_compiled(started[SIMULATED], everything=everything) for everything in (True, False))
    return Engines({**started, TENSORRT_LLM: best}, worst)


async def _started(name: str) -> ServedModel:
    async with running_service(backend=name, alias={ALIAS: MODEL_ID}, threads=1) as running:
        return running.loaded.model


def _compiled(model: ServedModel, *, everything: bool) -> ServedModel:
    """The model on a TensorRT-LLM with all features, or with only the required ones."""
    engine = replace(
        model.engine,
        name=TENSORRT_LLM,
        refused=_library(everything=everything).refused,
        ceilings={"top_k": MAX_TOP_K},
    )
    return replace(model, engine=engine)


def _library(*, everything: bool) -> Library:
    def unused(*_: object, **__: object) -> None:
        raise AssertionError("the description needs no engine")

    found = Options(torch=True, gives_logprobs=True, guided=GuidedDecoding(unused, unused))
    fields = OPTIONAL_FIELDS if everything else frozenset[str]()
    return Library("any", unused, unused, unused, fields, found if everything else Options())
