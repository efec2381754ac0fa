"""How much was in the page cache over the last hours, from the dumps that were made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from holdfast.operations.model import State, UnknownOperation
from holdfast.operations.service import Operations
from holdfast.operations.store import Selection
from holdfast.pagecache.models import DumpResult, ResidencyHistory, ResidencyPoint
from holdfast.pagecache.service import DUMP

_POINTS = 1000
"""One each 86 seconds for a day: no timer is set to more."""


def residency_history(operations: Operations, hours: float) -> ResidencyHistory:
    """Return the residency of whole roots as the dumps of the last `hours` recorded it.

    The operations are read, so dumps that were removed since are in it. Of more than 1000 the
    newest are.
    """
    until = datetime.now(UTC)
    since = until - timedelta(hours=hours)
    selection = Selection(kind=DUMP, state=State.SUCCEEDED, since=since)
    points = []
    for summary in operations.page(selection, _POINTS).operations:
        if summary.params is None or summary.params.get("path") is not None:
            continue
        try:
            operation = operations.get(summary.id)
        except UnknownOperation:
            continue  # it was removed with age meanwhile
        if operation.result is None or operation.finished_at is None:
            continue
        result = DumpResult.model_validate(operation.result)
        points.append(
            ResidencyPoint(
                at=operation.finished_at,
                roots=result.roots,
                resident=result.bytes,
                files=result.files,
                dump=result.dump,
                outcome=result.outcome,
            )
        )
    points.sort(key=lambda point: point.at)
    return ResidencyHistory(since=since, until=until, points=points)
