"""The health routes: the state of the bridge and of its service. They need no key."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from inference_client import AsyncClient, InferenceError
from inference_client import Health as State
from rest_bridge.errors import NOT_READY, ApiError
from rest_bridge.openai.responses import Json, json_response
from rest_bridge.openapi import PROBE_ERRORS, READY_ERRORS
from rest_bridge.request import bridge_of


class Features(BaseModel):
    """Optional features of this node."""

    dynamic_loading: bool
    huggingface_support: bool


class BackendInfo(BaseModel):
    """The engine behind the service."""

    name: str | None = Field(description="Null if the service did not report it.")
    version: str | None
    extensions: list[str]


class Backend(BaseModel):
    """Whether the service accepts requests."""

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
    """The service accepts requests."""

    status: Literal["ready"]


router = APIRouter(prefix="/health", tags=["health"])
_TIMEOUT = 2.0
"""Seconds within which the service must answer."""
_VERSION = version("lodestream")


@router.get("", response_model=None, responses={200: {"model": Health}, **PROBE_ERRORS})
async def health(request: Request) -> Response:
    """Report the node's state, always with 200. Probes should use `/health/live` and `/health/ready`.

    It needs no key, uses no quota, and is only logged at the level debug. A bridge with keys does not name
    the engine.
    """
    bridge = bridge_of(request)
    healthy = await _is_serving(bridge.client)
    # With keys, /v1/models reports the name to callers with a key. A request with their key would use quota.
    shows_engine = healthy and not bridge.keyring.requires_key
    backend = await bridge.engine.name(bridge.client) if shows_engine else None
    return json_response(
        {
            "status": "healthy" if healthy else "unhealthy",
            "node": bridge.config.region,
            "runtime": "lodestream",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "features": {"dynamic_loading": False, "huggingface_support": False},
            "backend": {"healthy": healthy, "info": _info(backend)},
        }
    )


@router.get("/live", response_model=None, responses={200: {"model": Live}, **PROBE_ERRORS})
async def live() -> Response:
    """Report that this process answers."""
    return json_response({"status": "ok"})


@router.get("/ready", response_model=None, responses={200: {"model": Ready}, **READY_ERRORS})
async def ready(request: Request) -> Response:
    """Report whether the service accepts requests."""
    if not await _is_serving(bridge_of(request).client):
        raise ApiError(NOT_READY, "The service behind the bridge accepts no requests now.")
    return json_response({"status": "ready"})


async def _is_serving(client: AsyncClient) -> bool:
    try:
        return await client.health(timeout=_TIMEOUT) is State.SERVING
    except InferenceError:
        return False


def _info(backend: str | None) -> Json:
    return {"name": backend, "version": _VERSION, "extensions": []}
