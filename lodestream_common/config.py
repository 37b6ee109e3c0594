"""The settings that the service and the bridge share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lodestream_common.address import Address
from lodestream_common.pacing import HIGHEST_INTERVAL, Pacing
from lodestream_common.proxies import TrustedProxies
from lodestream_common.request_log import LogSample


def config_home() -> Path:
    """The configuration directory of lodestream (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "lodestream"


def _check_address(text: str) -> str:
    Address.parse(text)
    return text


def _check_sample(text: str) -> str:
    LogSample.parse(text)
    return text


def _check_proxies(proxies: tuple[str, ...]) -> tuple[str, ...]:
    TrustedProxies(proxies)
    return proxies


AddressText = Annotated[str, AfterValidator(_check_address)]
"""A validated address: `host:port`, `[v6]:port` or `unix:path`."""


class CommonConfig(BaseModel):
    """The settings that the service and the bridge share."""

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
    tls_certificate: Path | None = Field(
        default=None,
        description="PEM file of the server's certificate, then its intermediate ones: the server speaks TLS "
        "only. Needs --tls-key. Changed files are read while it runs.",
    )
    tls_key: Path | None = Field(
        default=None, description="PEM file of the certificate's private key, without a password."
    )
    insecure: bool = Field(
        default=False,
        description="Permit plain text beyond loopback: listening there without --tls-certificate, and "
        "calling a service there without --service-ca.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line that is written. No line contains prompts."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="auto: console on a terminal, else one JSON object a line."
    )
    log_sample: Annotated[str, AfterValidator(_check_sample)] = Field(
        default="",
        description="Part of the request lines that is written, by outcome, as ok=0.01,refused=0.1; the "
        "groups are ok, cancelled, refused and error, each from 0 to 1. Both servers keep the same requests. "
        "All lines of a group without a rate are written.",
    )
    trusted_proxies: Annotated[tuple[str, ...], AfterValidator(_check_proxies)] = Field(
        default=(),
        description="Addresses and networks (10.0.0.0/8) of proxies in front of the server, whose "
        "X-Forwarded headers count; unix means all peers on a socket file. Logs have the caller's address, "
        "and failed keys are counted by it.",
    )
    stall_timeout: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds after which a reply that its caller does not read is ended, and after which an "
        "engine that has requests and makes no progress is reported unhealthy.",
    )
    header_timeout: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Seconds for the head of a connection's first request, and from the first byte of each "
        "later head; over gRPC for the handshake.",
    )
    body_timeout: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="Seconds without a byte of a request's body after which the request is refused. The "
        "whole body may take this time and one second for each 500 bytes; over gRPC, for each 100,000 bytes "
        "of --max-message-bytes.",
    )
    max_connections: int = Field(
        default=2000,
        ge=1,
        le=1_000_000,
        description="Most open connections of each server; further ones are refused.",
    )
    max_stream_interval: float = Field(
        default=0.1,
        ge=0,
        le=HIGHEST_INTERVAL,
        description="Largest pause in seconds between two messages of a stream. A busy server gathers tokens "
        "in it and sends them together; one that is not busy makes none. 0: no server does.",
    )
    stream_pacing: Pacing = Field(
        default="auto",
        description="How the pause between two messages of a stream is chosen: auto follows the load; always "
        "takes the largest, and random any up to it, to test callers with.",
    )
    shutdown_grace: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds after SIGTERM in which running requests may finish, before they are aborted.",
    )
