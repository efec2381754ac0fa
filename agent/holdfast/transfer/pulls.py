"""Pulls: the operation that fetches what a ticket offers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast._engine import CancelledError, EngineError, TransferError
from holdfast.engine.requests import call
from holdfast.operations.kinds import Context
from holdfast.operations.model import RequestError, Slug
from holdfast.records.provenance import provenance
from holdfast.storage.roots import RootPath
from holdfast.storage.writers import OpenForWriting
from holdfast.transfer.destinations import Destinations, failure, inode_of
from holdfast.transfer.engine_requests import ManifestToMake, PullTransfer
from holdfast.transfer.models import (
    CarriedPageCache,
    PullParams,
    PullRequest,
    PullResult,
    TransferPass,
)
from holdfast.transfer.others import ManifestTarget, PageCacheTrees
from holdfast.transfer.store import StoredTransfer, TransferStore

PULL = "transfer.pull"

_MOST_CONNECTIONS = 32


class Pulls:
    """Runs pulls, and remembers the transfers that they belong to."""

    def __init__(
        self,
        destinations: Destinations,
        store: TransferStore,
        *,
        exclude: Sequence[Path],
        connections: int,
        manifests: ManifestTarget,
        page_cache: PageCacheTrees,
    ) -> None:
        self._destinations = destinations
        self._store = store
        self._exclude = list(exclude)
        self._connections = connections
        self._manifests = manifests
        self._page_cache = page_cache

    def accept(self, request: PullRequest) -> PullParams:
        """Keep the ticket of a request, and return the parameters of the operation.

        Raises `RequestError` if the destination is not to be had, `OSError`.
        """
        return self._destinations.parameters(request, PullParams)

    def check(self, params: PullParams) -> None:
        """Check before an operation is started whether it can be.

        Raises `RequestError` if the destination is complete, or not to be had.
        """
        transfer = self._destinations.transfer(params.path, params.offer)
        if transfer.complete:
            raise RequestError(Slug.CONFLICT, _complete(transfer), "path")
        self._destinations.place(params.path)

    def run(self, context: Context[PullParams]) -> PullResult:
        """Fetch, in a thread of the operation."""
        params = context.params
        with self._destinations.using(params.path, params.offer) as transfer:
            return self._run(context, transfer)

    def _run(self, context: Context[PullParams], transfer: StoredTransfer) -> PullResult:
        params = context.params
        place = self._destinations.place(params.path)
        writers = None
        if transfer.complete:
            if not (context.resumed and transfer.manifest == context.id):
                raise RequestError(Slug.CONFLICT, _complete(transfer), "path")
            outcome: dict[str, Any] = {"passes": []}
        else:
            transfer = transfer.model_copy(update={"operation": context.id})
            self._store.put_transfer(transfer)
            if params.final:
                writers = self._destinations.at_rest(place, overrule=params.even_if_open)
            outcome = self._pull(context, transfer, place)
        if params.final and not transfer.complete:
            self._manifests.added(context.id)
            completed = {
                "complete": True,
                "manifest": context.id,
                "inode": inode_of(place.root / place.path),
            }
            self._store.put_transfer(transfer.model_copy(update=completed))
        if params.final and params.page_cache:
            outcome["page_cache"] = self._load(context, transfer, place)
        return _result(context, transfer.id, outcome, writers)

    def _pull(
        self, context: Context[PullParams], transfer: StoredTransfer, place: RootPath
    ) -> dict[str, Any]:
        """Have the engine fetch. Raises `OperationFailed` and what the engine raises."""
        params = context.params
        request = PullTransfer(
            ticket=transfer.tickets[params.offer],
            place=place,
            state=self._store.state_of(transfer.id),
            connections=params.connections or self._connections,
            most_connections=params.connections or _MOST_CONNECTIONS,
            proof=params.proof,
            bytes_per_second=params.bytes_per_second,
            passes=1 if params.final else params.passes,
            until_remaining=params.until_remaining,
            complete=params.final,
            overrule_writers=params.even_if_open,
            map_owners=params.map_owners,
            page_cache=self._dump_of(transfer) if params.final and params.page_cache else None,
            manifest=self._manifest(context, transfer) if params.final else None,
        )
        try:
            return call(request, context.progress)
        except TransferError as error:
            # The last run ended between the engine's last record and ours.
            finished = error.args[1] == "complete" and context.resumed and params.final
            if not (finished and self._manifests.stored(context.id)):
                raise failure(error) from error
            return {"passes": []}

    def _manifest(self, context: Context[PullParams], transfer: StoredTransfer) -> ManifestToMake:
        reserved = self._manifests.reserve(context.id, replace=context.resumed)
        return ManifestToMake(
            destination=reserved.destination,
            journal=reserved.journal,
            max_bytes=reserved.max_bytes,
            exclude=self._exclude,
            header=provenance(context.id) | {"transfer": transfer.id},
        )

    def _dump_of(self, transfer: StoredTransfer) -> Path:
        return self._store.state_of(transfer.id) / "page-cache.zst"

    def _load(
        self, context: Context[PullParams], transfer: StoredTransfer, place: RootPath
    ) -> CarriedPageCache:
        """Load what was in memory on the source; the transfer is complete whatever comes of it.

        Raises `CancelledError` if a later run will do it.
        """
        record = self._dump_of(transfer)
        if not record.is_file():
            return CarriedPageCache(record_bytes=0, problem="The source sent no record.")
        size = record.stat().st_size
        loaded: dict[str, Any] = {}
        problem = None
        try:
            loaded = self._page_cache.load_tree(record, place.root / place.path, context.progress)
        except CancelledError:
            if context.will_resume():
                raise
            problem = "It was cancelled."
        except (OSError, ValueError, EngineError) as error:
            problem = str(error)
        record.unlink()
        return CarriedPageCache(
            record_bytes=size,
            requested=loaded.get("requested", 0),
            resident=loaded.get("already_resident", 0) + loaded.get("loaded", 0),
            problem=problem,
        )


def _result(
    context: Context[PullParams],
    transfer_id: str,
    outcome: dict[str, Any],
    writers: OpenForWriting | None,
) -> PullResult:
    params = context.params
    passes = [TransferPass.model_validate(each) for each in outcome["passes"]]
    last = passes[-1] if passes else None
    largest = max(passes, key=lambda each: each.sent_bytes, default=None)
    rate = None
    if largest is not None and largest.sent_bytes and largest.seconds:
        rate = int(largest.sent_bytes / largest.seconds)
    return PullResult(
        transfer=transfer_id,
        path=params.path,
        proof=params.proof,
        complete=params.final,
        manifest=context.id if params.final else None,
        manifest_digest=outcome.get("manifest_digest"),
        source_manifest=outcome.get("source_manifest"),
        page_cache=outcome.get("page_cache"),
        files=last.files if last else 0,
        bytes=last.bytes if last else 0,
        sent_bytes=sum(each.sent_bytes for each in passes),
        remaining_bytes=outcome.get("remaining_bytes", 0),
        bytes_per_second=rate,
        limited_by=largest.limited_by if largest else None,
        open_for_writing=list(writers.holders) if writers else [],
        uninspected_processes=writers.uninspected if writers else 0,
        passes=passes,
    )


def _complete(transfer: StoredTransfer) -> str:
    return (
        f"The transfer into {transfer.path} is complete; a completed destination is not written "
        "again. Fetch into another directory."
    )
