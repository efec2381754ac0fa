"""Tickets: made with an offer, checked when a destination presents one."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.transfer.ids import from_wire, to_wire
from holdfast.transfer.models import TransferTicket
from holdfast.transfer.store import StoredOffer


def ticket_of(
    offer: StoredOffer, key: str, fingerprint: str, addresses: Sequence[str], port: int
) -> TransferTicket:
    """Return the ticket of an offer."""
    return TransferTicket(
        offer=to_wire(offer.id),
        addresses=list(addresses),
        port=port,
        fingerprint=fingerprint,
        key=key,
        path=offer.request.path,
        expires_at=offer.expires_at,
    )


def offer_of(ticket: TransferTicket) -> str:
    """Return the id of the offer that a ticket is of.

    The source decides by its own clock whether it has expired.
    """
    return from_wire(ticket.offer)


def source_of(ticket: TransferTicket) -> str:
    """Return address and port of a ticket's source."""
    address = ticket.addresses[0]
    return f"[{address}]:{ticket.port}" if ":" in address else f"{address}:{ticket.port}"
