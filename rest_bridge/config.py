"""Settings of the REST bridge."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from lodestream_common.config import AddressText, CommonConfig

_ORIGIN = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s,*?#@]+/?|null")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_OWN_PATHS = ("/v1", "/health", "/metrics", "/docs", "/openapi.json", "/playground")


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin such as https://chat.example.org, nor null")
    return origins


def _check_root_path(path: str) -> str:
    if not _ROOT_PATH.fullmatch(path):
        raise ValueError(f"{path!r} is no path such as /llm, without a slash at its end")
    if f"{path}/".startswith(tuple(f"{own}/" for own in _OWN_PATHS)):
        raise ValueError(f"{path} begins like a path of the bridge itself")
    return path


class BridgeConfig(CommonConfig):
    """The settings of `lodestream bridge`."""

    http_address: AddressText = Field(
        default="127.0.0.1:8000",
        description="host:port where the bridge answers HTTP; port 0 picks one.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Processes that answer HTTP on the one port; limits and metrics are those of all "
        "together.",
    )
    service_ca: Path | None = Field(
        default=None,
        description="PEM file of the authorities that the service's certificate must come from: the bridge "
        "calls the service over TLS. Changed files are read while it runs.",
    )
    service_certificate: Path | None = Field(
        default=None,
        description="PEM file of the bridge's own certificate, for a service with --tls-client-ca. Needs "
        "--service-key.",
    )
    service_key: Path | None = Field(
        default=None, description="PEM file of the private key of --service-certificate."
    )
    service_server_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,253}$",
        description="Name that the service's certificate must have; unset: the host of --grpc-address.",
    )
    max_body_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=1024,
        le=256 * 1024 * 1024,
        description="Largest request body, in bytes; a longer one is refused while it arrives.",
    )
    strict: bool = Field(
        default=False,
        description="Refuse unknown parameters; otherwise the response header x-ignored-parameters "
        "names them.",
    )
    region: str = Field(
        default="local",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Name of this place in /health and in the metadata of responses.",
    )
    sse_keepalive: float = Field(
        default=15.0,
        gt=0,
        le=3600,
        description="Seconds of silence after which a stream sends a comment line, so that no proxy cuts it. "
        "Before the first output the status 200 is sent with it, and a later failure is an event.",
    )
    # Longer than a restart of the service, and a little shorter than `sse_keepalive`: a stream that
    # cannot begin still fails with a status, not with an event.
    retry_timeout: float = Field(
        default=14.0,
        ge=0,
        le=60,
        description="Seconds for which a request without output is tried again while the service is "
        "unavailable, as during a restart; never past the request's own timeout. 0: it is tried three times.",
    )
    allowed_hosts: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._:, -]*$",
        description="Host names, joined by commas, that a bridge without keys accepts in the Host header "
        "beside those of loopback: the names of a proxy in front of it.",
    )
    cors_origin: Annotated[tuple[str, ...], AfterValidator(_check_origins)] = Field(
        default=(),
        description="Origin of web pages that may call the bridge from a browser (CORS), as "
        "https://chat.example.org; may be given more than once. Without it no page of another site can read "
        "an answer.",
    )
    root_path: Annotated[str, AfterValidator(_check_root_path)] = Field(
        default="",
        description="Prefix under which a proxy publishes the bridge, as /llm. The proxy may remove it from "
        "the path of a request, or leave it there.",
    )
    metrics: bool = Field(
        default=True, description="Count requests, and serve the counts at /metrics for Prometheus."
    )
    playground: bool = Field(
        default=True,
        description="Serve a page at / where a developer tries the API in a browser.",
    )
    request_timeout: float | None = Field(
        default=None,
        gt=0,
        le=3600,
        description="Deadline in seconds of requests that set none with the header x-request-timeout; "
        "unset: none.",
    )
