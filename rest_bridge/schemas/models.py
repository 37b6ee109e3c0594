from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class Model(BaseModel):
    """A served model under one of its names."""

    id: str = Field(description="The model's own id, or one of its aliases.")
    object: Literal["model"]
    created: int = Field(description="Seconds since the Unix epoch at which the model was loaded.")
    owned_by: str
    root: str = Field(description="The model's own id; differs from `id` where that is an alias.")
    parent: str | None
    permission: list[Any]
    aliases: list[str] = Field(description="The other names that requests may use for the same model.")
    context_length: int = Field(description="Most tokens of prompt and output together.")
    vocabulary_size: int
    backend: str = Field(description="The engine that runs it.")
    max_concurrency: int = Field(description="Generations that run at once; more wait in the queue.")
    default_max_tokens: int = Field(description="Tokens of an answer whose request sets no `max_tokens`.")
    max_tokens_limit: int = Field(description="The most that `max_tokens` may ask for.")


class ModelList(BaseModel):
    """Every name of every served model."""

    object: Literal["list"]
    data: list[Model]
