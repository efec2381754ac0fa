"""What a kind of operation returns, and how it judges it: the outcome of an operation."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel


class Outcome(StrEnum):
    """What an operation that succeeded came to."""

    OK = "ok"
    """All that was asked for was done, and every check held."""
    DIFFERS = "differs"
    """A check ran to its end and found differences."""
    PARTIAL = "partial"
    """Something that was asked for was left out or could not be done; the result names it."""


class OperationResult(BaseModel, defer_build=True):
    """Base of the results of operations.

    A capability whose work can end with differences or incomplete overrides `outcome`. It is
    recorded beside the result, and is not a member of it.
    """

    @property
    def outcome(self) -> Outcome:
        """Judge this result."""
        return Outcome.OK


def outcome_of(result: BaseModel) -> Outcome:
    """Return how a result judges itself; a model that has no opinion is `ok`."""
    return result.outcome if isinstance(result, OperationResult) else Outcome.OK
