"""The transfer capability: offers of this node, and transfers into it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast import _engine
from holdfast.operations.ids import new_id
from holdfast.operations.kinds import Kind
from holdfast.operations.model import RequestError, Slug, now
from holdfast.pressure import engine_limit
from holdfast.roots import RootPath, Roots
from holdfast.scopes import Scope
from holdfast.transfer.figures import TransferFigures
from holdfast.transfer.listener import OfferStatus, TransferListener
from holdfast.transfer.models import (
    OfferList,
    OfferMade,
    OfferRequest,
    OfferState,
    PullParams,
    PullRequest,
    PullResult,
    Transfer,
    TransferList,
    TransferOffer,
)
from holdfast.transfer.pulls import PULL, ManifestTarget, Pulls
from holdfast.transfer.store import StoredOffer, StoredTransfer, TransferStore
from holdfast.transfer.tickets import source_of, ticket_of
from holdfast.transfer.writers import FindWriters

log = logging.getLogger(__name__)


class Transfers:
    """Offers directories of this node, and fetches those of others."""

    def __init__(
        self,
        *,
        roots: Sequence[Path],
        state_dir: Path,
        listen: tuple[str, int] | None,
        addresses: Sequence[str],
        connections: int,
        manifests: ManifestTarget,
        writers: FindWriters,
    ) -> None:
        """`listen` is the data listener's address; None: this node offers nothing."""
        self._places = Roots(roots, state_dir)
        self._store = TransferStore(state_dir)
        self._pulls = Pulls(
            places=self._places,
            store=self._store,
            exclude=[state_dir],
            connections=connections,
            manifests=manifests,
            writers=writers,
        )
        self._listener = TransferListener(
            self._store,
            address=listen,
            named=addresses,
            exclude=[state_dir],
            place_of=self._offered_place,
        )

    def prepare(self) -> None:
        """Forget what expired long ago. Raises `OSError`."""
        self._store.prepare()

    def kinds(self) -> tuple[Kind[Any, Any], ...]:
        """List the operations of this capability."""
        return (
            Kind(
                PULL,
                PullParams,
                PullResult,
                self._pulls.run,
                check=self._pulls.check,
                # The journal has what is proven.
                resumable=True,
                resources=self._pulls.resources,
                scope=Scope.ADMIN,
            ),
        )

    def listen(self) -> None:
        """Serve the offers of this node, if `transfer.listen` is set. Raises `OSError`."""
        self._listener.start()

    def close(self) -> None:
        """Serve nothing more, and cut all connections of destinations."""
        self._listener.close()

    # Offers.

    def offer(self, request: OfferRequest, idempotency_key: str | None = None) -> OfferMade:
        """Offer a directory; the ticket is returned here and never again.

        Raises `RequestError` for a request that cannot be served, `OSError`.
        """
        if not self._listener.on:
            raise RequestError(
                Slug.CONFLICT,
                "This node offers nothing, as it has no data listener; set `transfer.listen` and "
                "restart holdfast.",
            )
        for made in self._store.offers() if idempotency_key is not None else ():
            if made.idempotency_key == idempotency_key:
                raise RequestError(
                    Slug.IDEMPOTENCY_MISMATCH,
                    f"The idempotency key was already used for offer {made.id}, whose ticket is "
                    "not shown again; revoke it, and make another one with a new key.",
                    offer=made.id,
                )
        place = self._offered_place(request.path)
        engine_limit(request.pressure)
        _check_patterns(request)
        _check_files(request)
        key, verifier = _engine.transfer_secret()
        stored = StoredOffer(
            id=new_id(),
            request=request.model_copy(update={"path": str(place.root / place.path)}),
            verifier=verifier,
            created_at=now(),
            expires_at=int(time.time()) + request.expires_seconds,
            idempotency_key=idempotency_key,
        )
        addresses, port = self._listener.addresses()
        fingerprint = self._store.certificate().fingerprint
        self._store.add_offer(stored)
        try:
            self._listener.add(stored)
        except BaseException:
            self._store.remove_offer(stored.id)
            raise
        return OfferMade(
            offer=_shown(stored, None),
            ticket=ticket_of(stored, key, fingerprint, addresses, port),
        )

    def offers(self) -> OfferList:
        """List the offers of this node, newest first. Raises `OSError`."""
        status = self._listener.status()
        return OfferList(
            offers=[_shown(offer, status.get(offer.id)) for offer in self._store.offers()]
        )

    def find_offer(self, name: str) -> TransferOffer:
        """Return an offer by its id or the beginning of it. Raises `RequestError`, `OSError`."""
        offer = self._store.offer(name)
        return _shown(offer, self._listener.status().get(offer.id))

    def revoke(self, name: str) -> str:
        """Withdraw an offer and cut its connections; return its id.

        Raises `RequestError` if there is none, `OSError`.
        """
        offer = self._store.offer(name)
        # First on the disk: no restart serves it again.
        self._store.remove_offer(offer.id)
        self._listener.revoke(offer.id)
        log.info("offer %s of %s is revoked", offer.id, offer.request.path)
        return offer.id

    # Transfers into this node.

    def accept(self, request: PullRequest) -> PullParams:
        """Keep the ticket of a request, and return the parameters of the operation.

        Raises `RequestError` if it cannot be served, `OSError`.
        """
        return self._pulls.accept(request)

    def transfers(self) -> TransferList:
        """List the transfers into this node, newest first. Raises `OSError`."""
        return TransferList(transfers=[_transfer(one) for one in self._store.transfers()])

    def transfer(self, name: str) -> Transfer:
        """Return a transfer by its id or the beginning of it. Raises `RequestError`, `OSError`."""
        return _transfer(self._store.transfer(name))

    def forget(self, name: str) -> str:
        """Forget a transfer into this node, of which no pull runs; return its id.

        What was fetched stays. Raises `RequestError`, `OSError`.
        """
        return self._pulls.forget(name)

    def figures(self) -> TransferFigures:
        """Return what metrics show."""
        status = self._listener.status()
        counts = Counter(_state(offer) for offer in self._store.offers())
        return TransferFigures(
            sent_bytes=self._listener.sent_bytes(),
            received_bytes=self._pulls.received(),
            limited_seconds=self._pulls.limited(),
            offers={state: counts[state] for state in ("unused", "in_use", "expired")},
            connections=sum(one.connections for one in status.values()),
        )

    def _offered_place(self, path: str) -> RootPath:
        place = self._places.find(path, "path")
        if not (place.root / place.path).is_dir():
            raise RequestError(
                Slug.INVALID_REQUEST,
                f"{path} is a file; offer the directory that it is in, with `files`.",
                "path",
            )
        return place


def _check_patterns(request: OfferRequest) -> None:
    for field, include, exclude in (
        ("include", request.include, []),
        ("exclude", [], request.exclude),
        ("exclude", request.include, request.exclude),
    ):
        try:
            _engine.check_patterns(include, exclude)
        except ValueError as error:
            reason = str(error)
            raise RequestError(
                Slug.INVALID_REQUEST, f"{reason[0].upper()}{reason[1:]}.", field
            ) from None


def _check_files(request: OfferRequest) -> None:
    for number, name in enumerate(request.files or ()):
        path = Path(name)
        if "\0" in name or path.is_absolute() or ".." in path.parts or str(path) != name:
            raise RequestError(
                Slug.INVALID_REQUEST,
                f"{name!r} should be a path relative to {request.path}, such as `a/b`.",
                f"files.{number}",
            )


def _state(offer: StoredOffer) -> OfferState:
    if offer.expired:
        return "expired"
    return "unused" if offer.puller is None else "in_use"


def _shown(offer: StoredOffer, status: OfferStatus | None) -> TransferOffer:
    request = offer.request
    return TransferOffer(
        id=offer.id,
        path=request.path,
        include=request.include,
        exclude=request.exclude,
        files=None if request.files is None else len(request.files),
        other_filesystems=request.other_filesystems,
        bytes_per_second=request.bytes_per_second,
        created_at=offer.created_at,
        expires_at=datetime.fromtimestamp(offer.expires_at, UTC),
        state=_state(offer),
        connections=0 if status is None else status.connections,
        sent_bytes=0 if status is None else status.sent_bytes,
    )


def _transfer(stored: StoredTransfer) -> Transfer:
    return Transfer(
        id=stored.id,
        path=stored.path,
        offer=stored.offer,
        source=source_of(stored.ticket),
        source_path=stored.ticket.path,
        created_at=stored.created_at,
        complete=stored.complete,
        manifest=stored.manifest,
        operation=stored.operation,
    )
