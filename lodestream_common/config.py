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
    shutdown_grace: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds that running requests get to finish after SIGTERM, before they are aborted.",
    )
