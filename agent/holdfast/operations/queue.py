"""How many operations may wait for their turn, and whose turn it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from holdfast.operations.kinds import Kind
from holdfast.operations.model import Operation, RequestError, Slug

QUEUED_PER_KIND = 32
QUEUED_PER_ACTOR = 16
"""Fewer than of a kind, so that no caller can fill the queue of a kind alone."""


class QueueFullError(RequestError):
    """Too many operations are waiting for their turn; some have to end first."""

    def __init__(self, detail: str) -> None:
        super().__init__(Slug.QUEUE_FULL, detail)


def admit(kind: Kind[Any, Any], actor: str, queued: Sequence[Operation]) -> None:
    """Raise `QueueFullError` if one more operation may not wait beside those in `queued`."""
    if sum(operation.kind == kind.name for operation in queued) >= QUEUED_PER_KIND:
        raise QueueFullError(
            f"{QUEUED_PER_KIND} operations of kind {kind.name} are waiting already, which is the "
            "limit; wait for some of them to end or cancel them."
        )
    bound = not (kind.urgent or kind.waits)
    if bound and sum(operation.actor == actor for operation in queued) >= QUEUED_PER_ACTOR:
        raise QueueFullError(
            f"{QUEUED_PER_ACTOR} operations of {actor} are waiting already, which is the limit; "
            "wait for some of them to end or cancel them."
        )


def may_run(
    kind: Kind[Any, Any], running: Iterable[Kind[Any, Any]], *, places: int, reserve: bool
) -> bool:
    """Whether an operation of `kind` may run beside those of the kinds in `running`.

    With `reserve`, others than urgent ones leave one of the places free. Where there is just one
    place, an urgent operation runs beside the other.
    """
    if kind.waits:
        return True
    taken = [operation for operation in running if not operation.waits]
    urgent = sum(operation.urgent for operation in taken)
    if kind.urgent:
        return len(taken) < places or not urgent
    ordinary = max(1, places - 1) if reserve else places
    return len(taken) < places and len(taken) - urgent < ordinary
