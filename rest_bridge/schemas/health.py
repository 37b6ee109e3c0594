from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Features(BaseModel):
    """What this node can do beyond answering."""

    dynamic_loading: bool
    huggingface_support: bool


class BackendInfo(BaseModel):
    """The engine behind the service."""

    name: str | None = Field(description="Null where the service did not say.")
    version: str | None
    extensions: list[str]


class Backend(BaseModel):
    """Whether the service behind the bridge serves."""

    healthy: bool
    info: BackendInfo


class Health(BaseModel):
    """The state of the bridge and of the service behind it."""

    status: Literal["healthy", "degraded", "unhealthy"]
    node: str
    runtime: str
    timestamp: str = Field(description="ISO 8601, UTC.")
    features: Features
    backend: Backend


class Live(BaseModel):
    """The bridge's process answers."""

    status: Literal["ok"]


class Ready(BaseModel):
    """The service behind the bridge takes requests."""

    status: Literal["ready"]
