"""Repairs: the operation that compares a destination with its source, and heals what differs."""

from __future__ import annotations

from holdfast._engine import TransferError
from holdfast.engine.requests import call
from holdfast.operations.kinds import Context
from holdfast.transfer.destinations import Destinations, failure
from holdfast.transfer.engine_requests import RepairTransfer
from holdfast.transfer.models import RepairParams, RepairRequest, RepairResult
from holdfast.transfer.store import TransferStore

REPAIR = "transfer.repair"


class Repairs:
    """Runs repairs."""

    def __init__(self, destinations: Destinations, store: TransferStore) -> None:
        self._destinations = destinations
        self._store = store

    def accept(self, request: RepairRequest) -> RepairParams:
        """Keep the ticket of a request, and return the parameters of the operation.

        Raises `RequestError` if the destination is not to be had, `OSError`.
        """
        return self._destinations.parameters(request, RepairParams)

    def check(self, params: RepairParams) -> None:
        """Check before an operation is started whether it can be. Raises `RequestError`."""
        self._destinations.transfer(params.path, params.offer)
        self._destinations.place(params.path)

    def run(self, context: Context[RepairParams]) -> RepairResult:
        """Compare and heal, in a thread of the operation."""
        params = context.params
        with self._destinations.using(params.path, params.offer) as transfer:
            place = self._destinations.place(params.path)
            self._destinations.at_rest(place, overrule=params.even_if_open)
            request = RepairTransfer(
                ticket=transfer.tickets[params.offer],
                place=place,
                state=self._store.state_of(transfer.id),
                overwrite_written=params.overwrite_written,
                bytes_per_second=params.bytes_per_second,
            )
            try:
                outcome = call(request, context.progress)
            except TransferError as error:
                raise failure(error) from error
        return RepairResult(transfer=transfer.id, path=params.path, **outcome)
