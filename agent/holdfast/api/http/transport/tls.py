"""TLS of the TCP listener: certificates from files, taken again when these change."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast.config import TlsSettings

log = logging.getLogger(__name__)

_POLL_SECONDS = 10.0
# The short names of RFC 4514, section 3, for the long ones of OpenSSL; others are left unchanged.
_ATTRIBUTES = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}


class ListenError(Exception):
    """Something keeps the daemon from listening; the message states what, why, and what to do."""


class Certificates:
    """The newest context for connections; each reload makes a new one.

    A session is resumed only with the context that it began with: nothing of it, and of the client
    certificate that it was started with, outlives a reload.
    """

    def __init__(
        self, tls: TlsSettings, on_authorities: Callable[[int], None] = lambda _: None
    ) -> None:
        """Read the files; `on_authorities` is called when the client authorities changed.

        Raises `ListenError` if they cannot be used.
        """
        self._tls = tls
        self._on_authorities = on_authorities
        self._seen = self._look()
        self._client_ca = _content(tls.client_ca)
        self.context = _load(tls, self._client_ca)
        """For the next connection."""
        self.authorities = 0
        """How often the client authorities changed since the start."""

    def reload(self) -> None:
        """Take the files again. What cannot be used is logged, and the old ones stay in use."""
        seen = self._look()
        try:
            client_ca = _content(self._tls.client_ca)
            self.context = _load(self._tls, client_ca)
        except ListenError as error:
            log.error("%s The old one stays in use.", error)
        else:
            log.info("the TLS certificate %s was taken again", self._tls.certificate)
            if client_ca != self._client_ca:
                self._client_ca = client_ca
                self.authorities += 1
                self._on_authorities(self.authorities)
        self._seen = seen

    async def watch(self) -> None:
        """Take the files again whenever they changed, until cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if self._look() != self._seen:
                self.reload()

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        """Return a value that differs once any of the files has changed."""
        found: list[tuple[int, ...] | None] = []
        for path in (self._tls.certificate, self._tls.key, self._tls.client_ca):
            try:
                status = path.stat() if path is not None else None
            except OSError:
                status = None
            found.append(
                None
                if status is None
                else (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            )
        return tuple(found)


def _content(file: Path | None) -> bytes | None:
    """Return what is in the file of client authorities. Raises `ListenError`."""
    if file is None:
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        raise ListenError(
            f"The client authorities {file} cannot be used: {error.strerror or error}."
        ) from error


def _load(tls: TlsSettings, client_ca: bytes | None) -> ssl.SSLContext:
    if tls.certificate is None:
        raise ListenError("TLS needs `tls.certificate` and `tls.key`.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        raise ListenError(
            f"The TLS certificate {tls.certificate} with the key {tls.key} cannot be used: "
            f"{error.strerror or error}."
        ) from error
    if client_ca is not None:
        try:
            context.load_verify_locations(cadata=client_ca.decode("ascii", "replace"))
        except (OSError, ValueError) as error:
            raise ListenError(
                f"The client authorities {tls.client_ca} cannot be used: "
                f"{getattr(error, 'strerror', None) or error}."
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
        # Each connection shows its certificate: a ticket would replace it.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


def subject_of(certificate: Mapping[str, Any]) -> str:
    """Return the subject of a certificate, as `ssl.SSLSocket.getpeercert` returns it.

    The subject as RFC 4514 writes it (`CN=ci,O=Example`); where that is empty, the first other
    name (`DNS:ci.example`), else the serial number (`serial 0A1B`).
    """
    names = [
        "+".join(f"{_ATTRIBUTES.get(key, key)}={_escape(value)}" for key, value in group)
        for group in certificate.get("subject", ())
    ]
    if names:
        return ",".join(reversed(names))
    for kind, value in certificate.get("subjectAltName", ()):
        return f"{kind}:{value}"
    return f"serial {certificate.get('serialNumber', 'unknown')}"


def _escape(value: str) -> str:
    escaped = re.sub(r'[\\,+"<>;]|^[ #]| $', lambda found: f"\\{found[0]}", value)
    return escaped.replace("\0", r"\00")
