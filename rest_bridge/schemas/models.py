from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class Model(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Seconds since the Unix epoch at which the model was loaded.")
    owned_by: str
    root: str
    parent: str | None
    permission: list[Any]
    aliases: list[str] = Field(description="Other names that requests may use.")
    context_length: int = Field(description="Most tokens of prompt and output together.")
    vocabulary_size: int
    backend: str = Field(description="The engine that runs it.")
    max_concurrency: int = Field(description="Generations that run at once; more wait in the queue.")
    default_max_tokens: int = Field(description="Tokens of an answer whose request sets no `max_tokens`.")
    max_tokens_limit: int = Field(description="The most that `max_tokens` may ask for.")


class ModelList(BaseModel):
    """Every served model."""

    object: Literal["list"]
    data: list[Model]
