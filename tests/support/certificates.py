"""Creates certificates and their files for the tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import trustme

from inference_client import TlsConfig


@dataclass(slots=True)
class Certificates:
    """A certificate authority that issues certificates for this machine, as files in `home`."""

    home: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    @property
    def ca(self) -> Path:
        """The file with the authority's certificate."""
        path = self.home / "ca.pem"
        self.authority.cert_pem.write_to_path(path)
        return path

    def issue(self, name: str = "server", expires: datetime | None = None) -> dict[str, Path]:
        """Write a new certificate for 127.0.0.1; the settings of a server that name its files.

        Files that exist are replaced as a whole, one after the other.
        """
        leaf = self.authority.issue_cert("127.0.0.1", "lodestream.test", not_after=expires)
        paths = {"tls_certificate": self.home / f"{name}.pem", "tls_key": self.home / f"{name}.key"}
        chain = b"".join(part.bytes() for part in leaf.cert_chain_pems)
        for path, content in zip(paths.values(), (chain, leaf.private_key_pem.bytes()), strict=True):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.replace(path)
        return paths

    def towards_service(self) -> dict[str, Any]:
        """The bridge's settings for a service that uses this authority and demands client certificates."""
        own = self.issue("bridge")
        return {
            "service_ca": self.ca,
            "service_certificate": own["tls_certificate"],
            "service_key": own["tls_key"],
        }

    def client(self, *, own: bool = True) -> TlsConfig:
        """The TLS settings of a client; with a client certificate unless `own` is False."""
        roots = self.authority.cert_pem.bytes()
        if not own:
            return TlsConfig(roots)
        files = self.issue("client")
        return TlsConfig(roots, files["tls_certificate"].read_bytes(), files["tls_key"].read_bytes())
