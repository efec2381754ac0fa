"""Destinations: the directories of this node that transfers go into, and their tickets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from holdfast._engine import TransferError
from holdfast.operations.ids import new_id
from holdfast.operations.model import OperationFailed, Problem, RequestError, Slug, now
from holdfast.storage.roots import RootPath, Roots
from holdfast.storage.writers import FindWriters, OpenForWriting, at_rest
from holdfast.transfer.models import (
    PullParams,
    PullRequest,
    RepairParams,
    RepairRequest,
    TransferTicket,
)
from holdfast.transfer.store import StoredTransfer, TransferStore
from holdfast.transfer.tickets import offer_of, source_of

P = TypeVar("P", PullParams, RepairParams)

_SLUGS = {
    "wire": Slug.UNAVAILABLE,
    "refused": Slug.FORBIDDEN,
    "protocol": Slug.IO_ERROR,
    "damaged": Slug.IO_ERROR,
    "occupied": Slug.CONFLICT,
    "complete": Slug.CONFLICT,
    "busy": Slug.CONFLICT,
    "unfinished": Slug.CONFLICT,
    "writers": Slug.CONFLICT,
}


class Destinations:
    """The transfers into this node. A directory has one; safe to use from many threads."""

    def __init__(self, places: Roots, store: TransferStore, writers: FindWriters) -> None:
        self._places = places
        self._store = store
        self._writers = writers
        self._lock = threading.Lock()
        self._running: set[str] = set()
        """Transfers that an operation runs for."""

    def parameters(self, request: PullRequest | RepairRequest, params: type[P]) -> P:
        """Keep the ticket of a request, and return the parameters of its operation.

        Raises `RequestError` if the destination is not to be had, `OSError`.
        """
        ticket = request.ticket
        path = self.accept(ticket, request.path)
        options = request.model_dump(exclude={"ticket"}) | {"path": path}
        return params(
            offer=offer_of(ticket), source=source_of(ticket), source_path=ticket.path, **options
        )

    def accept(self, ticket: TransferTicket, path: str) -> str:
        """Keep a ticket for a directory, and return the directory's path.

        Raises `RequestError` if the directory is not to be had, `OSError`.
        """
        offer = offer_of(ticket)
        place = self.place(path)
        path = str(place.root / place.path)
        with self._lock:
            known = self._of(path)
            if known is None:
                self._check_apart(path)
                known = StoredTransfer(
                    id=new_id(), path=path, tickets={offer: ticket}, created_at=now()
                )
            self._store.put_transfer(known.with_ticket(offer, ticket))
        return path

    def transfer(self, path: str, offer: str) -> StoredTransfer:
        """Return the transfer into a directory that has the ticket of an offer.

        Raises `RequestError` if it was forgotten.
        """
        known = self._of(path)
        if known is None or offer not in known.tickets:
            raise RequestError(Slug.NOT_FOUND, f"The transfer into {path} was forgotten.", "path")
        return known

    @contextmanager
    def using(self, path: str, offer: str) -> Iterator[StoredTransfer]:
        """Yield a transfer, which is not forgotten meanwhile. Raises `RequestError`."""
        with self._lock:
            transfer = self.transfer(path, offer)
            self._running.add(transfer.id)
        try:
            yield transfer
        finally:
            with self._lock:
                self._running.discard(transfer.id)

    def forget(self, name: str) -> str:
        """Forget a transfer, for which no operation runs; return its id. What was fetched stays.

        Raises `RequestError`, `OSError`.
        """
        with self._lock:
            transfer = self._store.transfer(name)
            if transfer.id in self._running:
                raise RequestError(
                    Slug.CONFLICT,
                    f"Operation {transfer.operation} is writing to {transfer.path}; cancel it "
                    "first.",
                    "id",
                )
            self._store.remove_transfer(transfer.id)
        return transfer.id

    def place(self, path: str) -> RootPath:
        """Find the place of a destination, of which the last name may be missing.

        Raises `RequestError`.
        """
        try:
            place = self._places.find(path, "path")
        except RequestError as error:
            if error.slug is not Slug.NOT_FOUND or not _missing(Path(path)):
                raise
            above = self._places.find(str(Path(path).parent), "path")
            return RootPath(above.root, str(Path(above.path) / Path(path).name))
        if not (place.root / place.path).is_dir():
            raise RequestError(Slug.INVALID_REQUEST, f"{path} is a file; name a directory.", "path")
        return place

    def at_rest(self, place: RootPath, *, overrule: bool) -> OpenForWriting | None:
        """Refuse while files of a destination may be written to, unless that is overruled.

        Raises `RequestError`, also where that cannot be inspected.
        """
        tree = place.root / place.path
        if not tree.is_dir():
            return None
        return at_rest(tree, self._writers, overrule=overrule, field="path")

    def _of(self, path: str) -> StoredTransfer | None:
        """Return the transfer into a directory: either not complete, or still there."""
        found = [transfer for transfer in self._store.transfers() if transfer.path == path]
        inode = inode_of(Path(path))
        return next(
            (
                destination
                for destination in found
                if not destination.complete or destination.inode == inode
            ),
            None,
        )

    def _check_apart(self, path: str) -> None:
        """Raise `RequestError` where a directory overlaps with that of a transfer under way."""
        for other in self._store.transfers():
            beside = Path(path), Path(other.path)
            overlap = beside[0].is_relative_to(beside[1]) or beside[1].is_relative_to(beside[0])
            if overlap and not other.complete:
                raise RequestError(
                    Slug.CONFLICT,
                    f"{path} overlaps with {other.path}, into which transfer {other.id} goes; "
                    "complete that one, or forget it with `holdfast transfer forget`.",
                    "path",
                )


def failure(error: TransferError) -> OperationFailed:
    """Return the problem that a failed transfer ends with."""
    detail, kind = error.args
    sentence = f"{detail[:1].upper()}{detail[1:]}"
    sentence = sentence if sentence.endswith(".") else f"{sentence}."
    return OperationFailed(Problem.of(_SLUGS.get(kind, Slug.IO_ERROR), sentence, kind=kind))


def inode_of(directory: Path) -> int | None:
    """Return the inode of a directory: that of a device may differ after a boot."""
    try:
        return directory.lstat().st_ino
    except OSError:
        return None


def _missing(path: Path) -> bool:
    """Whether only the last name of a path is missing."""
    return path.parent.is_dir() and not path.exists() and not path.is_symlink()
