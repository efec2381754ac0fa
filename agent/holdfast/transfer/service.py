"""The transfer capability: offers of this node, and transfers into it."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast import _engine
from holdfast.capability import Capability
from holdfast.engine.pressure import engine_limit
from holdfast.operations.ids import new_id
from holdfast.operations.kinds import Kind
from holdfast.operations.model import RequestError, Slug, now
from holdfast.records.patterns import check_patterns
from holdfast.scopes import Scope
from holdfast.storage.roots import Roots
from holdfast.storage.writers import FindWriters
from holdfast.transfer.destinations import Destinations
from holdfast.transfer.events import SourceEvents, offered_place
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
    RepairParams,
    RepairRequest,
    RepairResult,
    Transfer,
    TransferList,
    TransferOffer,
)
from holdfast.transfer.others import ManifestTarget, PageCacheTrees
from holdfast.transfer.pulls import PULL, Pulls
from holdfast.transfer.repairs import REPAIR, Repairs
from holdfast.transfer.store import StoredOffer, StoredTransfer, TransferStore
from holdfast.transfer.tickets import source_of, ticket_of

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from holdfast.operations.service import Operations

log = logging.getLogger(__name__)


class Transfers(Capability):
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
        page_cache: PageCacheTrees,
        writers: FindWriters,
    ) -> None:
        """`listen` is the data listener's address; None: this node offers nothing."""
        self._places = Roots(roots, state_dir)
        self._store = TransferStore(state_dir)
        self._destinations = Destinations(self._places, self._store, writers)
        self._pulls = Pulls(
            self._destinations,
            self._store,
            exclude=[state_dir],
            connections=connections,
            manifests=manifests,
            page_cache=page_cache,
        )
        self._repairs = Repairs(self._destinations, self._store)
        self._listener = TransferListener(
            self._store,
            address=listen,
            named=addresses,
            exclude=[state_dir],
            events=SourceEvents(
                self._store,
                places=self._places,
                manifests=manifests,
                page_cache=page_cache,
                writers=writers,
            ),
        )

    def prepare(self) -> None:
        """Forget what expired long ago."""
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
                resources=_destination,
                scope=Scope.ADMIN,
            ),
            Kind(
                REPAIR,
                RepairParams,
                RepairResult,
                self._repairs.run,
                check=self._repairs.check,
                # What is healed is found to be equal.
                resumable=True,
                resources=_destination,
                scope=Scope.ADMIN,
                rate="read",
            ),
        )

    def listen(self) -> None:
        """Serve the offers of this node, if `transfer.listen` is set. Raises `OSError`."""
        self._listener.start()

    def close(self) -> None:
        """Serve nothing more, and cut all connections of destinations."""
        self._listener.close()

    @contextmanager
    def running(self, operations: Operations) -> Iterator[None]:
        """Serve the offers of this node for as long as the block runs."""
        del operations
        self.listen()
        try:
            yield
        finally:
            self.close()

    # Offers.

    def offer(
        self, request: OfferRequest, idempotency_key: str | None = None
    ) -> tuple[OfferMade, bool]:
        """Offer a directory; return the offer with its ticket, and whether it is new.

        The ticket is returned here and never again. The same request with the same key makes a
        new ticket for the offer that it made, in place of one that was lost before it was used.
        Raises `RequestError` for a request that cannot be served, `OSError`.
        """
        if not self._listener.on:
            raise RequestError(
                Slug.CONFLICT,
                "This node offers nothing, as it has no data listener; set `transfer.listen` and "
                "restart holdfast.",
            )
        if not self._listener.serving:
            raise RequestError(
                Slug.UNAVAILABLE,
                "The data listener could not be started, and the log has the reason; restart "
                "holdfast once that is fixed.",
            )
        place = offered_place(self._places, request.path)
        engine_limit(request.pressure)
        check_patterns(request.include, request.exclude)
        _check_files(request)
        request = request.model_copy(update={"path": str(place.root / place.path)})
        key, verifier = _engine.transfer_secret()
        known = self._store.made_with(idempotency_key) if idempotency_key is not None else None
        if known is not None:
            stored = self._renewed(known, request, verifier)
            self._listener.add(stored)
            return self._made(stored, key), False
        stored = StoredOffer(
            id=new_id(),
            request=request,
            verifier=verifier,
            created_at=now(),
            expires_at=int(time.time()) + request.expires_seconds,
            idempotency_key=idempotency_key,
        )
        self._store.add_offer(stored)
        try:
            self._listener.add(stored)
        except BaseException:
            self._store.remove_offer(stored.id)
            raise
        return self._made(stored, key), True

    def _renewed(self, known: StoredOffer, request: OfferRequest, verifier: str) -> StoredOffer:
        """Replace the ticket of an offer that is asked for again. Raises `RequestError`."""
        if known.request != request:
            raise RequestError(
                Slug.IDEMPOTENCY_MISMATCH,
                f"The idempotency key was already used for offer {known.id} with another body; use "
                "a new key for a new request.",
                offer=known.id,
            )
        renewed = None if known.expired else self._store.renew(known.id, verifier)
        if renewed is None:
            raise RequestError(
                Slug.CONFLICT,
                f"The idempotency key made offer {known.id}, of which the ticket was used or has "
                "expired; use a new key for another offer.",
                offer=known.id,
            )
        return renewed

    def _made(self, offer: StoredOffer, key: str) -> OfferMade:
        addresses, port = self._listener.addresses()
        fingerprint = self._store.certificate().fingerprint
        return OfferMade(
            offer=_shown(offer, None),
            ticket=ticket_of(offer, key, fingerprint, addresses, port),
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

    def accept_repair(self, request: RepairRequest) -> RepairParams:
        """Keep the ticket of a request, and return the parameters of the operation.

        Raises `RequestError` if it cannot be served, `OSError`.
        """
        return self._repairs.accept(request)

    def transfers(self) -> TransferList:
        """List the transfers into this node, newest first. Raises `OSError`."""
        return TransferList(transfers=[_transfer(transfer) for transfer in self._store.transfers()])

    def transfer(self, name: str) -> Transfer:
        """Return a transfer by its id or the beginning of it. Raises `RequestError`, `OSError`."""
        return _transfer(self._store.transfer(name))

    def forget(self, name: str) -> str:
        """Forget a transfer into this node, of which no pull runs; return its id.

        What was fetched stays. Raises `RequestError`, `OSError`.
        """
        return self._destinations.forget(name)

    def collectors(self, operations: Operations) -> Iterable[Collector]:
        """Return what counts offers, connections and bytes."""
        from holdfast.transfer.metrics import TransferCollector  # noqa: PLC0415 - for the daemon alone

        del operations
        return (TransferCollector(self.figures),)

    def figures(self) -> TransferFigures:
        """Return what metrics show."""
        status = self._listener.status()
        counts = Counter(_state(offer) for offer in self._store.offers())
        return TransferFigures(
            **json.loads(_engine.transfer_statistics()),
            offers={state: counts[state] for state in ("unused", "in_use", "expired")},
            connections=sum(offer.connections for offer in status.values()),
        )


def _destination(params: PullParams | RepairParams) -> frozenset[str]:
    """Name what an operation holds: one of a directory at a time."""
    return frozenset({f"transfer:{params.path}"})


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
        manifest=offer.manifest,
        manifest_digest=offer.manifest_digest,
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
