"""Settings of the REST bridge."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from lodestream_common.config import AddressText, CommonConfig


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
    allowed_origins: str = Field(
        default="",
        pattern=r"^(\s*([a-zA-Z][a-zA-Z0-9+.-]*://[^/\s,]+/?|null)\s*(,|$))*$",
        description="Origins of web pages that may call the bridge from a browser (CORS), joined by commas, "
        "as https://chat.example.org. Pages of other sites are refused where there are no keys.",
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
