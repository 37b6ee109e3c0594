"""What to build, from what, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.building.errors import BuildRefused
from engines.plan import Plan
from engines.recipe import Paths, Route, routes

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):",
    "1, 2, 3, 4, 5,",
    "Übermorgen fahren wir nach",
)
"""What a fresh engine is asked."""
GOLDEN_TOKENS = 32
"""At most so many of each answer are kept."""


@dataclass(frozen=True, slots=True)
class Job:
    """One build. Paths are absolute."""

    plan: Plan
    model: Path
    """The checkpoint."""
    tokenizer: Path
    """Directory of the tokenizer's files: for Hugging Face checkpoints the same."""
    output: Path
    """Where the engine directory appears, once it is finished and verified."""
    examples: Path
    """The `examples` directory of TensorRT-LLM's source tree."""
    calib_dataset: str = Paths().calib_dataset
    route: str | None = None
    """`trtllm-build` or `llm-api`; None: the recommended one."""
    model_id: str | None = None
    revision: str | None = None

    @property
    def work(self) -> Path:
        """Everything in between, beside the output: logs, the converted checkpoint, timings."""
        return self.output.with_name(self.output.name + "-build")

    @property
    def engine(self) -> Path:
        """The engine, until it is finished."""
        return self.work / "engine"

    @property
    def checkpoint(self) -> Path:
        return self.work / "checkpoint"

    @property
    def timing_cache(self) -> Path:
        return self.work / "model.cache"

    @property
    def program(self) -> Path:
        return self.work / "build_engine.py"

    def chosen_route(self, *, has_timing_cache: bool) -> Route:
        """The way to go, with its commands.

        Raises:
            BuildRefused: it is closed for this plan.

        """
        paths = Paths(
            model=str(self.model),
            checkpoint=str(self.checkpoint),
            engine=str(self.engine),
            examples=str(self.examples),
            program=str(self.program),
            timing_cache=str(self.timing_cache),
            has_timing_cache=has_timing_cache,
            calib_dataset=self.calib_dataset,
        )
        ways = routes(self.plan, paths)
        way = next((way for way in ways if way.name == self.route), ways[0])
        if way.obstacle:
            raise BuildRefused(f"the route {way.name} is closed: {way.obstacle}")
        return way
