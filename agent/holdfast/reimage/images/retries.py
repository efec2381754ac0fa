"""How long to ask a source again that is in trouble."""

from __future__ import annotations

import time
from dataclasses import dataclass

from holdfast._engine import CancelledError, Progress
from holdfast.operations.model import OperationFailed, Problem, Slug
from holdfast.reimage.images.sources import SourceTroubleError


@dataclass(frozen=True)
class Patience:
    """How to deal with a source that is in trouble."""

    first_seconds: float = 0.5
    most_seconds: float = 30.0
    """Waits double from the first to this."""
    give_up_seconds: float = 600.0
    """Without a new byte for this long, the source is given up."""


class Retries:
    """Waits between attempts, until patience ends."""

    def __init__(self, patience: Patience, progress: Progress) -> None:
        self._patience = patience
        self._progress = progress
        self._best = -1
        self.came_on(0)

    def came_on(self, length: int) -> None:
        """Note how far it has come. Only what was not there before is a reason to be patient."""
        if length > self._best:
            self._best = length
            self._since = time.monotonic()
            self._wait = self._patience.first_seconds

    def wait(self, error: SourceTroubleError) -> None:
        """Wait before the next attempt. Raises the error itself once patience has ended."""
        left = self._since + self._patience.give_up_seconds - time.monotonic()
        if left <= 0:
            raise error
        until = time.monotonic() + min(self._wait, left)
        self._wait = min(self._wait * 2, self._patience.most_seconds)
        while (seconds := until - time.monotonic()) > 0:
            check(self._progress)
            time.sleep(min(seconds, 0.1))


def failed(slug: Slug, detail: str) -> OperationFailed:
    """Make the end of an operation of a problem."""
    return OperationFailed(Problem.of(slug, detail))


def check(progress: Progress) -> None:
    """Raise `CancelledError` once cancellation was requested."""
    if progress.cancelled:
        raise CancelledError("cancelled")
