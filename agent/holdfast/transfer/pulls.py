"""Pulls: the operation that fetches what a ticket offers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from holdfast import _engine
from holdfast._engine import TransferError
from holdfast.operations.ids import new_id
from holdfast.operations.kinds import Context
from holdfast.operations.model import OperationFailed, Problem, RequestError, Slug, now
from holdfast.records.calls import call, provenance
from holdfast.roots import RootPath, Roots
from holdfast.transfer.models import PullOptions, PullParams, PullRequest, PullResult, TransferPass
from holdfast.transfer.store import StoredTransfer, TransferStore
from holdfast.transfer.tickets import offer_of, source_of
from holdfast.transfer.writers import FindWriters, OpenForWriting, open_for_writing

PULL = "transfer.pull"

LIMITS = ("source-read", "wire", "destination-write", "processor")
PROOFS = ("wire", "flushed", "media")
_SLUGS = {
    "wire": Slug.UNAVAILABLE,
    "refused": Slug.FORBIDDEN,
    "protocol": Slug.IO_ERROR,
    "damaged": Slug.IO_ERROR,
    "occupied": Slug.CONFLICT,
    "complete": Slug.CONFLICT,
    "busy": Slug.CONFLICT,
    "unfinished": Slug.CONFLICT,
}


class ManifestTarget(Protocol):
    """Where the manifest of a completed transfer goes: the store of manifests."""

    def reserve(self, record_id: str, *, replace: bool) -> dict[str, Any]:
        """Return `destination`, `journal` and `max_bytes` for the engine. Raises `RequestError`."""

    def stored(self, record_id: str) -> bool:
        """Whether there is such a manifest."""

    def added(self, record_id: str) -> None:
        """Take note of a manifest that the engine made."""


class Pulls:
    """Runs pulls, and remembers the transfers that they belong to."""

    def __init__(
        self,
        *,
        places: Roots,
        store: TransferStore,
        exclude: Sequence[Path],
        connections: int,
        manifests: ManifestTarget,
        writers: FindWriters,
    ) -> None:
        self._places = places
        self._store = store
        self._exclude = [str(path) for path in exclude]
        self._connections = connections
        self._manifests = manifests
        self._writers = writers
        self._lock = threading.Lock()
        self._running: set[str] = set()
        """Transfers that a pull runs for."""
        self._received: Counter[str] = Counter(dict.fromkeys(PROOFS, 0))
        self._limited: dict[str, float] = dict.fromkeys(LIMITS, 0.0)

    def accept(self, request: PullRequest) -> PullParams:
        """Keep the ticket of a request, and return the parameters of the operation.

        Raises `RequestError` if the destination is not to be had, or the ticket belongs to another
        one; `OSError`.
        """
        ticket = request.ticket
        offer = offer_of(ticket)
        place = self._place(request.path)
        path = str(place.root / place.path)
        options = request.model_dump(include=set(PullOptions.model_fields)) | {"path": path}
        with self._lock:
            known = self._of(path)
            if known is None:
                self._check_apart(path)
                known = StoredTransfer(
                    id=new_id(), path=path, tickets={offer: ticket}, created_at=now()
                )
                self._store.put_transfer(known)
            elif not known.complete:
                self._store.put_transfer(known.with_ticket(offer, ticket))
        return PullParams(offer=offer, source=source_of(ticket), source_path=ticket.path, **options)

    def forget(self, name: str) -> str:
        """Forget a transfer, of which no pull runs; return its id. What was fetched stays.

        Raises `RequestError`, `OSError`.
        """
        with self._lock:
            transfer = self._store.transfer(name)
            if transfer.id in self._running:
                raise RequestError(
                    Slug.CONFLICT,
                    f"Operation {transfer.operation} is fetching into {transfer.path}; cancel it "
                    "first.",
                    "id",
                )
            self._store.remove_transfer(transfer.id)
        return transfer.id

    def check(self, params: PullParams) -> None:
        """Check before an operation is started whether it can be.

        Raises `RequestError` if the destination is complete, or not to be had.
        """
        transfer = self._transfer(params)
        if transfer.complete:
            raise RequestError(Slug.CONFLICT, _complete(transfer), "path")
        self._place(params.path)

    def resources(self, params: PullParams) -> frozenset[str]:
        """Name what a pull holds: its destination."""
        return frozenset({f"{PULL}:{params.path}"})

    def run(self, context: Context[PullParams]) -> PullResult:
        """Fetch, in a thread of the operation."""
        with self._lock:
            transfer = self._transfer(context.params)
            self._running.add(transfer.id)
        try:
            return self._run(context, transfer)
        finally:
            with self._lock:
                self._running.discard(transfer.id)

    def _run(self, context: Context[PullParams], transfer: StoredTransfer) -> PullResult:
        params = context.params
        if transfer.complete:
            if context.resumed and transfer.manifest == context.id:
                return _result(context, transfer.id, {"passes": []}, None)
            raise RequestError(Slug.CONFLICT, _complete(transfer), "path")
        place = self._place(params.path)
        self._store.put_transfer(transfer.model_copy(update={"operation": context.id}))
        writers = self._check_writers(params, place) if params.final else None
        outcome = self._pull(context, transfer, place)
        if params.final:
            self._manifests.added(context.id)
            self._store.put_transfer(
                transfer.model_copy(
                    update={
                        "operation": context.id,
                        "complete": True,
                        "manifest": context.id,
                        "directory": _identity(place.root / place.path),
                    }
                )
            )
        return _result(context, transfer.id, outcome, writers)

    def received(self) -> Mapping[str, int]:
        """Return bytes of files received since the start, by level of proof."""
        with self._lock:
            return dict(self._received)

    def limited(self) -> Mapping[str, float]:
        """Return for how many seconds passes were limited by what."""
        with self._lock:
            return dict(self._limited)

    def _pull(
        self, context: Context[PullParams], transfer: StoredTransfer, place: RootPath
    ) -> dict[str, Any]:
        """Have the engine fetch. Raises `OperationFailed` and what the engine raises."""
        params = context.params
        request: dict[str, Any] = {
            "ticket": transfer.tickets[params.offer].model_dump(),
            "place": place.request(),
            "state": str(self._store.state_of(transfer.id)),
            "connections": params.connections or self._connections,
            "proof": params.proof,
            "bytes_per_second": params.bytes_per_second,
            "passes": 1 if params.final else params.passes,
            "until_remaining": params.until_remaining,
            "complete": params.final,
        }
        if params.final:
            request["manifest"] = {
                **self._manifests.reserve(context.id, replace=context.resumed),
                "exclude": self._exclude,
                "header": provenance(context.id) | {"transfer": transfer.id},
            }
        outcome: dict[str, Any] = {"passes": []}
        try:
            outcome = call(_engine.pull_transfer, request, context.progress)
        except TransferError as error:
            detail, kind = error.args
            # The last run ended between the engine's last record and ours.
            finished = kind == "complete" and context.resumed
            if not (finished and params.final and self._manifests.stored(context.id)):
                raise OperationFailed(
                    Problem.of(_SLUGS.get(kind, Slug.IO_ERROR), f"{_capital(detail)}.", kind=kind)
                ) from error
        finally:
            self._count(params, outcome, context.progress.bytes_done)
        return outcome

    def _check_writers(self, params: PullParams, place: RootPath) -> OpenForWriting | None:
        """Refuse while files of the destination may be written to, unless that is overruled."""
        tree = place.root / place.path
        if not tree.is_dir():
            return None
        found = open_for_writing(tree, self._writers)
        if found.holders and not params.even_if_open:
            raise RequestError(
                Slug.CONFLICT,
                f"Files of {tree} are open for writing ({found.sentence}); stop what uses them, or "
                "overrule this with `even_if_open`.",
                "final",
            )
        return found

    def _count(self, params: PullParams, outcome: dict[str, Any], done: int) -> None:
        passes = outcome["passes"]
        with self._lock:
            self._received[params.proof] += sum(one["sent_bytes"] for one in passes) or done
            for one in passes:
                if one["limited_by"] is not None:
                    self._limited[one["limited_by"]] += one["seconds"]

    def _of(self, path: str) -> StoredTransfer | None:
        """Return the transfer into a directory: either not complete, or still there."""
        found = [one for one in self._store.transfers() if one.path == path]
        identity = _identity(Path(path))
        return next((one for one in found if not one.complete or one.directory == identity), None)

    def _transfer(self, params: PullParams) -> StoredTransfer:
        """Return the transfer that a pull belongs to. Raises `RequestError` if it is forgotten."""
        known = self._of(params.path)
        if known is None or (params.offer not in known.tickets and not known.complete):
            raise RequestError(
                Slug.NOT_FOUND, f"The transfer into {params.path} was forgotten.", "path"
            )
        return known

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

    def _place(self, path: str) -> RootPath:
        """Find the place of a destination, of which the last name may be missing.

        Raises `RequestError`.
        """
        try:
            place = self._places.find(path, "path")
        except RequestError as error:
            parent = Path(path).parent
            if error.slug is not Slug.NOT_FOUND or not _missing(Path(path)):
                raise
            above = self._places.find(str(parent), "path")
            return RootPath(above.root, str(Path(above.path) / Path(path).name))
        if not (place.root / place.path).is_dir():
            raise RequestError(Slug.INVALID_REQUEST, f"{path} is a file; name a directory.", "path")
        return place


def _result(
    context: Context[PullParams],
    transfer_id: str,
    outcome: dict[str, Any],
    writers: OpenForWriting | None,
) -> PullResult:
    params = context.params
    passes = [TransferPass.model_validate(one) for one in outcome["passes"]]
    last = passes[-1] if passes else None
    largest = max(passes, key=lambda one: one.sent_bytes, default=None)
    rate = None
    if largest is not None and largest.sent_bytes and largest.seconds:
        rate = int(largest.sent_bytes / largest.seconds)
    return PullResult(
        transfer=transfer_id,
        path=params.path,
        proof=params.proof,
        complete=params.final,
        manifest=context.id if params.final else None,
        files=last.files if last else 0,
        bytes=last.bytes if last else 0,
        sent_bytes=sum(one.sent_bytes for one in passes),
        remaining_bytes=last.sent_bytes if last else 0,
        bytes_per_second=rate,
        limited_by=largest.limited_by if largest else None,
        open_for_writing=list(writers.holders) if writers else [],
        uninspected_processes=writers.uninspected if writers else 0,
        passes=passes,
    )


def _missing(path: Path) -> bool:
    """Whether only the last name of a path is missing."""
    return path.parent.is_dir() and not path.exists() and not path.is_symlink()


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        status = directory.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _complete(transfer: StoredTransfer) -> str:
    return (
        f"The transfer into {transfer.path} is complete; a completed destination is not written "
        "again. Fetch into another directory."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
