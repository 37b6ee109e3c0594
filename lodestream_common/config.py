"""Settings that both servers have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lodestream_common.address import Address


def config_home() -> Path:
    """The directory of lodestream's own configuration (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "lodestream"


def _check_address(text: str) -> str:
    Address.parse(text)
    return text


AddressText = Annotated[str, AfterValidator(_check_address)]
"""An address as settings spell it, known to be one: `host:port`, `[v6]:port` or `unix:path`."""


class CommonConfig(BaseModel):
    """Settings of the service and the bridge alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grpc_address: AddressText = Field(
        default="127.0.0.1:50051",
        description="host:port where the gRPC service listens and where the bridge finds it; "
        "port 0 picks one.",
    )
    keys_file: Path = Field(
        default_factory=lambda: config_home() / "keys.json",
        description="File of API key hashes, written by `lodestream keys`. "
        "Without a key in it the servers are open, and listen on loopback only.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line that is written. Prompts are in none of them."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="auto: console on a terminal, else one JSON object a line."
    )
    stall_timeout: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds that a caller may leave a reply unread, and that the engine may make no "
        "progress with work outstanding, before the one is ended and the other is reported unhealthy.",
    )
    header_timeout: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Seconds that a new connection may take for its first request's head, and each later "
        "head from its first byte; over gRPC for its handshake.",
    )
    body_timeout: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="Seconds without a byte of a request's body after which it is refused; all of it may "
        "take as long, and a second for each 500 bytes; over gRPC for each 100,000 of --max-message-bytes.",
    )
    max_connections: int = Field(
        default=2000,
        ge=1,
        le=1_000_000,
        description="Connections that are open at once, for each server; one more is refused.",
    )
    shutdown_grace: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds that running requests get to finish after SIGTERM, before they are aborted.",
    )
