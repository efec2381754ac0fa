"""How peers are reached, as the settings have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.reimage.images.peers import PeerAccess

if TYPE_CHECKING:
    from holdfast.config import Settings


def access_of(settings: Settings) -> PeerAccess | None:
    """Return how the peers of these settings are reached; None if there are none."""
    peers, tls = settings.reimage.peers, settings.tls
    if not peers.urls:
        return None
    certificate = None
    if tls.client_ca is not None and tls.certificate is not None and tls.key is not None:
        certificate = tls.certificate, tls.key
    return PeerAccess(
        urls=[url.rstrip("/") for url in peers.urls],
        token_file=peers.token_file,
        ca_file=peers.ca_file or settings.reimage.ca_file,
        certificate=certificate,
        wait_seconds=peers.wait_seconds,
    )
