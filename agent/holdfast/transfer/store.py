"""What a node keeps of transfers: its certificate, offers, and transfers into it.

All of it is in a directory of the state directory that only the daemon's user can read. Of a
ticket's key an offer keeps the public half only; a transfer into this node keeps its ticket, which
nobody else can use any more.
"""

from __future__ import annotations

import base64
import logging
import shutil
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from holdfast import _engine
from holdfast.operations.ids import LENGTH, ambiguous
from holdfast.operations.model import RequestError, Slug
from holdfast.storage.atomic_files import flush_directory, make_directory, replace_file
from holdfast.transfer.ids import to_wire
from holdfast.transfer.models import DAY, OfferRequest, TransferTicket

log = logging.getLogger(__name__)

MAX_OFFERS = 256
_KEPT_SECONDS = 7 * DAY
"""An offer that expired longer ago is forgotten."""
_MAX_BYTES = 64 << 20
_SHORTEST = 4
_TICKETS = 8
"""Of one transfer: a pull that waits for its turn uses its own."""

M = TypeVar("M", bound=BaseModel)


class StoredOffer(BaseModel, defer_build=True):
    """An offer as stored."""

    id: str
    request: OfferRequest
    verifier: str
    """The public half of the ticket's key."""
    puller: str | None = None
    """The public key of the destination that used the ticket."""
    created_at: datetime
    expires_at: int
    """In Unix seconds."""
    idempotency_key: str | None = None
    """Of the request that made it."""
    manifest: str | None = None
    """The manifest that was made here when the destination completed."""
    manifest_digest: str | None = None

    @property
    def expired(self) -> bool:
        """Whether nothing is served any more."""
        return time.time() >= self.expires_at


class StoredTransfer(BaseModel, defer_build=True):
    """A transfer into this node as stored."""

    id: str
    path: str
    tickets: dict[str, TransferTicket]
    """By the id of the offer, the newest last."""
    created_at: datetime
    operation: str | None = None
    complete: bool = False
    manifest: str | None = None
    inode: int | None = None
    """Of the destination, once it is complete."""

    @property
    def ticket(self) -> TransferTicket:
        """The newest ticket."""
        return next(reversed(self.tickets.values()))

    @property
    def offer(self) -> str:
        """The id of the newest ticket's offer."""
        return next(reversed(self.tickets))

    def with_ticket(self, offer: str, ticket: TransferTicket) -> StoredTransfer:
        """Return it with a ticket more, without the oldest of too many."""
        others = [(key, ticket) for key, ticket in self.tickets.items() if key != offer]
        kept = dict([*others[-_TICKETS + 1 :], (offer, ticket)])
        return self.model_copy(update={"tickets": kept})


class Certificate(BaseModel, defer_build=True):
    """The certificate that tickets name, and its key: DER, in base 64."""

    certificate: str
    key: str
    fingerprint: str

    @property
    def der(self) -> tuple[bytes, bytes]:
        """The certificate and its key."""
        return base64.b64decode(self.certificate), base64.b64decode(self.key)


class TransferStore:
    """Offers and transfers on disk. Safe to use from many threads."""

    def __init__(self, state_dir: Path) -> None:
        self.directory = state_dir / "transfer"
        self._offers = self.directory / "offers"
        self._transfers = self.directory / "transfers"
        self._lock = threading.RLock()
        self._in_memory: dict[str, StoredOffer] | None = None

    def prepare(self) -> None:
        """Forget offers that expired long ago; a volume that is full or read-only keeps them."""
        try:
            for offer in self.offers():
                if offer.expires_at + _KEPT_SECONDS < time.time():
                    self.remove_offer(offer.id)
        except OSError as error:
            log.warning("expired offers could not be forgotten: %s", error)

    def certificate(self) -> Certificate:
        """Return the certificate of this node, made when it is first asked for. Raises `OSError`.

        Tickets name it, so it stays for as long as the state directory does.
        """
        file = self.directory / "certificate.json"
        with self._lock:
            known = _read(file, Certificate)
            if known is not None:
                return known
            certificate, key, fingerprint = _engine.transfer_certificate()
            made = Certificate(
                certificate=base64.b64encode(certificate).decode(),
                key=base64.b64encode(key).decode(),
                fingerprint=fingerprint,
            )
            _write(file, made)
            return made

    # Offers. All of them are in memory: metrics and each new connection ask for them.

    def offers(self) -> list[StoredOffer]:
        """Return all offers, newest first. Raises `OSError`."""
        with self._lock:
            return sorted(self._known().values(), key=lambda offer: offer.id, reverse=True)

    def offer(self, name: str) -> StoredOffer:
        """Return an offer by its id, or by the beginning of it. Raises `RequestError`."""
        with self._lock:
            return self._known()[_resolved(name, list(self._known()), "offer")]

    def add_offer(self, offer: StoredOffer) -> None:
        """Store an offer durably. Raises `OSError`, and `RequestError` if there are too many."""
        with self._lock:
            if len(self._known()) >= MAX_OFFERS:
                raise RequestError(
                    Slug.CONFLICT,
                    f"There are {MAX_OFFERS} offers already; revoke some that are not wanted.",
                )
            self._put(offer)

    def made_with(self, idempotency_key: str) -> StoredOffer | None:
        """Return the offer that a request with this key made."""
        with self._lock:
            offers = self._known().values()
            return next(
                (offer for offer in offers if offer.idempotency_key == idempotency_key), None
            )

    def renew(self, offer_id: str, verifier: str) -> StoredOffer | None:
        """Replace the ticket of an offer durably; None if one was used. Raises `OSError`."""
        with self._lock:
            offer = self._known().get(offer_id)
            if offer is None or offer.puller is not None:
                return None
            self._put(offer.model_copy(update={"verifier": verifier}))
            return self._known()[offer_id]

    def bind(self, offer_id: str, puller: str) -> bool:
        """Store durably which destination owns a ticket; return False if another one does.

        Raises `OSError`.
        """
        with self._lock:
            offer = self._known().get(offer_id)
            if offer is None or offer.puller not in (None, puller):
                return False
            self._put(offer.model_copy(update={"puller": puller}))
            return True

    def complete(self, offer_id: str, manifest: str, digest: str) -> bool:
        """Store durably that a destination has all of an offer; return False if it was revoked.

        Raises `OSError`.
        """
        with self._lock:
            offer = self._known().get(offer_id)
            if offer is None:
                return False
            found = {"manifest": manifest, "manifest_digest": digest}
            self._put(offer.model_copy(update=found))
            return True

    def digests_of(self, offer_id: str) -> Path:
        """Return the file in which the engine keeps digests of an offer's files."""
        return self._offers / f"{offer_id}.digests"

    def remove_offer(self, offer_id: str) -> None:
        """Forget an offer, durably. Raises `OSError`."""
        with self._lock:
            (self._offers / f"{offer_id}.json").unlink(missing_ok=True)
            self.digests_of(offer_id).unlink(missing_ok=True)
            flush_directory(self._offers)
            self._known().pop(offer_id, None)

    def _known(self) -> dict[str, StoredOffer]:
        if self._in_memory is None:
            found = (_read(file, StoredOffer) for file in self._offers.glob("*.json"))
            self._in_memory = {offer.id: offer for offer in filter(None, found)}
        return self._in_memory

    def _put(self, offer: StoredOffer) -> None:
        _write(self._offers / f"{offer.id}.json", offer)
        self._known()[offer.id] = offer

    # Transfers into this node.

    def transfers(self) -> list[StoredTransfer]:
        """Return all transfers into this node, newest first."""
        with self._lock:
            files = self._transfers.glob("*/transfer.json")
            found = (_read(file, StoredTransfer) for file in files)
            return sorted(filter(None, found), key=lambda record: record.id, reverse=True)

    def transfer(self, name: str) -> StoredTransfer:
        """Return a transfer by its id, or by the beginning of it. Raises `RequestError`."""
        transfers = {transfer.id: transfer for transfer in self.transfers()}
        return transfers[_resolved(name, list(transfers), "transfer")]

    def put_transfer(self, transfer: StoredTransfer) -> None:
        """Store a transfer durably. Raises `OSError`."""
        with self._lock:
            _write(self.state_of(transfer.id) / "transfer.json", transfer)

    def remove_transfer(self, transfer_id: str) -> None:
        """Forget a transfer and what is known of its files. Raises `OSError`."""
        with self._lock:
            shutil.rmtree(self.state_of(transfer_id))
            flush_directory(self._transfers)

    def state_of(self, transfer_id: str) -> Path:
        """Return the directory that has the engine's journal of a transfer."""
        to_wire(transfer_id)  # no other name gets into a path
        return self._transfers / transfer_id


def _resolved(name: str, ids: list[str], noun: str) -> str:
    """Return the id that begins with `name`. Raises `RequestError` if there is no such one."""
    matching = (
        [listed for listed in ids if listed.startswith(name.upper())]
        if len(name) >= _SHORTEST
        else []
    )
    if len(matching) > 1:
        raise RequestError(Slug.CONFLICT, ambiguous(f"{noun}s", name, matching), "id")
    if not matching:
        shown = name if len(name) <= LENGTH else f"{name[:LENGTH]}…"
        raise RequestError(Slug.NOT_FOUND, f"There is no {noun} {shown}.", "id")
    return matching[0]


def _read(file: Path, model: type[M]) -> M | None:
    """Read a file of this store; None if it is not there, or is damaged, which is logged.

    Raises `OSError`.
    """
    try:
        with file.open("rb") as stream:
            return model.model_validate_json(stream.read(_MAX_BYTES))
    except FileNotFoundError:
        return None
    except ValidationError:
        log.exception("%s is damaged and cannot be used", file)
        return None


def _write(file: Path, content: BaseModel) -> None:
    make_directory(file.parent)
    replace_file(file, content.model_dump_json().encode() + b"\n")
