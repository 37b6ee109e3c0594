"""Certificates: reading and checking their files, and following them while a server runs."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from lodestream_common.address import Address, is_loopback
from lodestream_common.errors import OperatorError, SettingError
from lodestream_common.watched_file import Signature, file_signature

if TYPE_CHECKING:
    from cryptography import x509

_log = structlog.stdlib.get_logger(__name__)

CHECK_INTERVAL = 0.5
"""Seconds between two checks of the files for changes."""


def check_plain_text(address: Address, *, allowed: bool, setting: str, remedy: str) -> None:
    """Check that a connection without TLS stays on this machine.

    Args:
        address: where a server listens, or which server is called.
        allowed: whether the operator allows plain text everywhere.
        setting: the name of the setting with the address.
        remedy: the flags that turn TLS on.

    Raises:
        OperatorError: other machines could read the connection, and `allowed` is False.

    """
    if not allowed and not is_loopback(address.host):
        raise OperatorError(
            f"{setting}: keys and prompts would cross the network to or from {address} in plain text; "
            f"set {remedy}, or allow it with --insecure"
        )


@dataclass(frozen=True, slots=True)
class Pem:
    """The checked content of certificate files, as PEM."""

    certificate: bytes | None
    """The own certificate, then its intermediate ones."""
    key: bytes | None = field(repr=False)
    authorities: bytes | None
    """The certificates of the authorities that the peer's certificate must come from."""

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """Key and certificate.

        Raises:
            ValueError: there is none.

        """
        if self.certificate is None or self.key is None:
            raise ValueError("no certificate was read")
        return self.key, self.certificate


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The settings that name the files of one side of a connection. Without a path a part is not used."""

    certificate: Path | None
    key: Path | None
    authorities: Path | None
    settings: tuple[str, str, str]
    """The names of the three settings, in this order; errors begin with one."""

    def read(self) -> Pem:
        """Read and check the files.

        Raises:
            SettingError: a certificate comes without a key, or a key without a certificate.
            OperatorError: a file cannot be read or is no PEM, the key belongs to another certificate, or a
                certificate has expired or is not valid yet.

        """
        certificate_setting, key_setting, authorities_setting = self.settings
        if (self.certificate is None) != (self.key is None):
            given, missing = (
                (certificate_setting, key_setting) if self.certificate else (key_setting, certificate_setting)
            )
            raise SettingError(f"{given}: needs {missing}, too")
        certificate = self._read(self.certificate, certificate_setting)
        key = self._read(self.key, key_setting)
        authorities = self._read(self.authorities, authorities_setting)
        if certificate is not None and key is not None:
            own = _certificates(certificate, f"{certificate_setting}: {self.certificate}")
            for one in own:
                _check_time(one, f"{certificate_setting}: {self.certificate}")
            _check_pair(own[0], key, f"{key_setting}: {self.key}", str(self.certificate))
        if authorities is not None:
            _check_authorities(authorities, f"{authorities_setting}: {self.authorities}")
        return Pem(certificate, key, authorities)

    def names(self) -> list[str]:
        """The names of the settings that are set."""
        paths = (self.certificate, self.key, self.authorities)
        return [name for name, path in zip(self.settings, paths, strict=True) if path]

    def signature(self) -> tuple[Signature | None, ...]:
        """What changes when one of the files changes."""
        return tuple(file_signature(path) for path in (self.certificate, self.key, self.authorities) if path)

    @staticmethod
    def _read(path: Path | None, setting: str) -> bytes | None:
        try:
            return None if path is None else path.read_bytes()
        except OSError as error:
            raise OperatorError(f"{setting}: {path} cannot be read: {error.strerror}") from error


def _certificates(pem: bytes, place: str) -> Sequence[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise OperatorError(f"{place} has no certificate in PEM form") from error


def _check_time(certificate: x509.Certificate, place: str) -> None:
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        raise OperatorError(f"{place} has a certificate that expired at {certificate.not_valid_after_utc}")
    if certificate.not_valid_before_utc > now:
        raise OperatorError(
            f"{place} has a certificate that is not valid before {certificate.not_valid_before_utc}"
        )


def _check_pair(certificate: x509.Certificate, key: bytes, place: str, certificate_path: str) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key, password=None)
    except TypeError as error:
        raise OperatorError(f"{place} is encrypted; the servers need a key without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise OperatorError(f"{place} has no private key in PEM form") from error
    if private.public_key() != certificate.public_key():
        raise OperatorError(f"{place} does not belong to the first certificate in {certificate_path}")


def _check_authorities(pem: bytes, place: str) -> None:
    # The bundle of a system may have expired authorities beside many valid ones.
    now = datetime.now(UTC)
    if all(one.not_valid_after_utc < now for one in _certificates(pem, place)):
        raise OperatorError(f"{place} has only certificates that expired")


class FollowedPem:
    """The content of certificate files, followed while a server runs.

    Files are read once they stayed unchanged between two calls of `refresh`: certificate and key are
    replaced one after the other. If the new files are unusable, one error is logged, and the old content
    counts.

    Raises:
        OperatorError: on construction, if the files are unusable; see `TlsFiles.read`.

    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        # The signature is older than the content, so that the first refresh finds a change in between.
        self._loaded = self._seen = files.signature()
        self.current = files.read()

    def refresh(self) -> bool:
        """Read changed files. True: `current` is new."""
        signature = self._files.signature()
        settled, self._seen = signature == self._seen, signature
        if not settled or signature == self._loaded:
            return False
        self._loaded = signature
        try:
            pem = self._files.read()
        except OperatorError as error:
            _log.error("certificates_unusable", reason=str(error))
            return False
        changed, self.current = pem != self.current, pem
        if changed:
            _log.info("certificates_reloaded", settings=self._files.names())
        return changed


def _https_context(pem: Pem) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # The library reads files only. The content is what was checked, though the operator's files change.
    with tempfile.NamedTemporaryFile(prefix="lodestream-") as file:
        file.write(b"\n".join(pem.pair))
        file.flush()
        try:
            context.load_cert_chain(file.name, password="")
        except ssl.SSLError as error:
            raise OperatorError(f"tls_certificate: the TLS library refuses it: {error.reason}") from error
    return context


class FollowedHttps:
    """The context of an HTTPS server (TLS 1.2 or newer), whose new connections get the newest certificate."""

    def __init__(self, files: TlsFiles) -> None:
        """Load the files.

        Raises:
            OperatorError: see `TlsFiles.read`.

        """
        self._pem = FollowedPem(files)
        self._newest = _https_context(self._pem.current)
        self.context = _https_context(self._pem.current)
        self.context.sni_callback = self._choose

    def refresh(self) -> None:
        """Read changed files."""
        if not self._pem.refresh():
            return
        try:
            self._newest = _https_context(self._pem.current)
        except OperatorError as error:
            _log.error("certificates_unusable", reason=str(error))

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._newest
