"""TLS of the commands that call a server: the options `--ca`, `--cert` and `--key`."""

from __future__ import annotations

import ssl
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lodestream_common.errors import SettingError
from lodestream_common.tls import Pem, TlsFiles

if TYPE_CHECKING:
    from inference_client import TlsConfig

OPTIONS = (
    ("--ca", "PEM file of the authorities that the server's certificate must come from"),
    ("--cert", "PEM file of an own certificate, for a server that demands one; needs --key"),
    ("--key", "PEM file of the private key of --cert"),
)

_FLAGS = ("--cert", "--key", "--ca")


def add_options(parser: ArgumentParser) -> None:
    """Add the three options to a command."""
    group = parser.add_argument_group("TLS")
    for flag, about in OPTIONS:
        group.add_argument(flag, type=Path, metavar="PATH", help=about)


@dataclass(frozen=True, slots=True)
class CallerTls:
    """The files that the options name, read and checked once."""

    files: TlsFiles
    pem: Pem

    @classmethod
    def of(cls, parsed: Namespace) -> CallerTls:
        """Read the files of parsed options.

        Raises:
            SettingError: a certificate comes without a key, or a key without a certificate.
            OperatorError: a file is unusable; see `TlsFiles.read`.

        """
        files = TlsFiles(parsed.cert, parsed.key, parsed.ca, _FLAGS)
        return cls(files, files.read())

    @property
    def is_given(self) -> bool:
        """Whether an option was given."""
        return any((self.files.certificate, self.files.authorities))

    def check_used(self, *, is_tls: bool, schemes: str) -> None:
        """Refuse options that have no effect.

        Args:
            is_tls: whether a server is called over TLS.
            schemes: the forms of an address that is.

        Raises:
            SettingError: options were given, and no server is called over TLS.

        """
        if self.is_given and not is_tls:
            given = "--ca" if self.files.authorities else "--cert"
            raise SettingError(f"{given}: needs an address with {schemes}")

    def for_grpc(self) -> TlsConfig:
        """The client's settings; without --ca it trusts the authorities that gRPC brings."""
        from inference_client import TlsConfig

        return TlsConfig(self.pem.authorities, self.pem.certificate, self.pem.key)

    def for_https(self) -> ssl.SSLContext:
        """A context of connections; without --ca it trusts the authorities of the system."""
        authorities = (self.pem.authorities or b"").decode("ascii", "replace")
        context = ssl.create_default_context(cadata=authorities or None)
        if self.files.certificate is not None:
            # The library reads a pair from files only.
            context.load_cert_chain(self.files.certificate, self.files.key)
        return context


NO_TLS = CallerTls(TlsFiles(None, None, None, _FLAGS), Pem(None, None, None))
"""The value where no option was given."""
