"""TLS of the listeners, gRPC's and HTTP's: the PEM files, and following them when certificates rotate.

Files are looked at in every handshake and read again when one has changed; a change that can't be used keeps what was
there before, so that a rotation half-way through refuses nobody.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc

from sidecar.security import SecurityError, read_file
from sidecar.settings import Tls


def grpc_credentials(tls: Tls) -> grpc.ServerCredentials | None:
    """Of the TCP listener; None for plaintext. Raises SecurityError."""
    if not tls.certificate:
        return None
    files = _PemFiles(tls)
    current = files.grpc_configuration()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """For gRPC, in every handshake; None where nothing has changed."""
        return files.grpc_configuration() if files.renewed() else None

    return grpc.dynamic_ssl_server_credentials(current, changed, require_client_authentication=bool(tls.client_ca))


def http_context(tls: Tls) -> ssl.SSLContext | None:
    """Of the HTTP listener; None for plaintext. Raises SecurityError."""
    return _RenewedContext(_PemFiles(tls)) if tls.certificate else None


class _RenewedContext(ssl.SSLContext):
    """Hands every connection to a context of the files as they are: one context can't forget an authority."""

    _files: _PemFiles
    _newest: ssl.SSLContext

    def __new__(cls, files: _PemFiles) -> _RenewedContext:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._files, self._newest = files, files.context
        return self

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """What asyncio calls for every connection."""
        if self._files.renewed():
            self._newest = self._files.context
        return self._newest.wrap_bio(*arguments, **options)


class _PemFiles:
    """The files of one listener; ``context`` is of those that were usable last."""

    def __init__(self, tls: Tls) -> None:
        """Raises SecurityError."""
        self._paths = {
            name: Path(path)
            for name, path in (("certificate", tls.certificate), ("key", tls.key), ("client_ca", tls.client_ca))
            if path
        }
        self._seen = self._stamp()
        self._texts = self._read()
        self.context = self._context()

    def renewed(self) -> bool:
        """Whether there are other files than when this was asked last, and they are usable."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        try:
            texts = self._read()
            context = self._context()
        except SecurityError:
            return False
        if stamp != self._stamp():
            return False  # they changed while they were read
        self._seen, self._texts, self.context = stamp, texts, context
        return True

    def grpc_configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(self._texts["key"], self._texts["certificate"])], root_certificates=self._texts.get("client_ca")
        )

    def _read(self) -> dict[str, bytes]:
        texts = {name: read_file(f"listen.tls.{name}", path) for name, path in self._paths.items()}
        for name, text in texts.items():
            if b"-----BEGIN " not in text:
                raise SecurityError(f"listen.tls.{name}: {self._paths[name]} is not a PEM file")
        return texts

    def _context(self) -> ssl.SSLContext:
        """Reading them the way a handshake does also finds a key of another certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._paths["certificate"], self._paths["key"])
            if "client_ca" in self._paths:
                context.load_verify_locations(self._paths["client_ca"])
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise SecurityError(f"listen.tls: certificate, key and client_ca can't be used together: {error}") from None
        return context

    def _stamp(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in self._paths.values())
        except OSError:
            return ()
