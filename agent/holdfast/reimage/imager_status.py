"""The address on which the imager reports its progress, so that the machine stays visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.config.addresses import is_loopback, split_address
from holdfast.privileged.boot.models import StatusServer

if TYPE_CHECKING:
    from holdfast.config import Settings


def imager_status(settings: Settings) -> StatusServer | None:
    """Return the daemon's own address, TLS and tokens, unless the settings state others.

    None for a daemon that only this machine can reach. Raises `ValueError`
    where everybody could ask.
    """
    wanted = settings.reimage.status_listen
    if wanted == "auto":
        wanted = settings.listen if settings.listens_beyond_loopback else ""
    if not wanted:
        return None
    host, port = split_address(wanted)
    if is_loopback(host):
        return None
    shown = f"[{host}]" if ":" in host else host
    return StatusServer(
        listen=f"{shown}:{port}",
        certificate=_text(settings.tls.certificate),
        key=_text(settings.tls.key),
        tokens=str(settings.tokens_file),
        client_ca=_text(settings.tls.client_ca),
    )


def _text(path: object) -> str | None:
    return None if path is None else str(path)
