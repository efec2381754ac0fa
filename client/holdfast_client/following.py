"""Follows an operation to its end, whatever becomes of connections, daemons and machines."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from holdfast_client.core import Core, operation_path
from holdfast_client.errors import (
    HoldfastError,
    NotFound,
    OperationFailed,
    OperationLost,
    OperationUnfinished,
    UnexpectedAnswer,
    Unreachable,
)
from holdfast_client.record import OperationRecord
from holdfast_client.retrying import at_least, transient

POLL_SECONDS = 30.0
"""How long the node is asked to wait for the end; less than what proxies put up with."""
UNKNOWN_SECONDS = 30.0
"""How long a node that is ready may deny an operation before it counts as lost.

A system that has just started may answer before the data volume with its records is there.
"""
_SILENCE_SECONDS = 30.0
"""An event stream has a line every ten seconds."""
_NDJSON = "application/x-ndjson"

Seen = Callable[[OperationRecord], Awaitable[None]]
Away = Callable[[HoldfastError], None]


class Patience:
    """What is known of an operation, and for how long it is still followed."""

    def __init__(
        self,
        core: Core,
        seen: Mapping[str, Any],
        timeout: float,
        away: Away | None = None,
        *,
        away_seconds: float = math.inf,
    ) -> None:
        """`timeout` is in seconds; `away` is called with why the node does not answer.

        It may stay away for `away_seconds`, after which the operation counts as lost.
        """
        self._core = core
        self._away = away
        self._away_seconds = away_seconds
        self._away_since: float | None = None
        self._deadline = time.monotonic() + timeout
        self._failures = 0
        self._last: HoldfastError | None = None
        self._denied: float | None = None
        self.seen = seen

    @property
    def left(self) -> float:
        """Seconds until the deadline, not below 0."""
        return max(0.0, self._deadline - time.monotonic())

    @property
    def deadline(self) -> float:
        """By `time.monotonic()`."""
        return self._deadline

    @property
    def record(self) -> OperationRecord:
        """The operation as last seen."""
        return OperationRecord(self.seen)

    def saw(self, document: Mapping[str, Any]) -> OperationRecord:
        """Keep an answer; return the operation. Raises `OperationFailed` if it did."""
        self.seen = document
        self._failures, self._last, self._denied, self._away_since = 0, None, None, None
        record = OperationRecord(document)
        if record.final and record.state != "succeeded":
            raise OperationFailed(record)
        return record

    async def after(self, error: HoldfastError) -> None:
        """Wait before the next attempt. Raises if there is none, or no use in it."""
        if isinstance(error, NotFound):
            await self._denial(error)
        elif not (transient(error) or isinstance(error, UnexpectedAnswer)) and not _broken(error):
            raise error
        self._last = error
        self._failures += 1
        if self._away is not None:
            self._away(error)
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since > self._away_seconds:
            raise self._lost(error) from error
        await self.pause(at_least(self._core.retries.pause(self._failures), error))

    async def pause(self, seconds: float) -> None:
        """Wait, at most until the deadline. Raises if that has come."""
        await self._core.exchange.sleep(min(seconds, self.left))
        self.check()

    def check(self) -> None:
        """Raise `OperationUnfinished` or `OperationLost` once the time is up."""
        if self.left > 0:
            return
        if self._last is None:
            raise OperationUnfinished(
                f"{self._name} is {self.record.state} and did not end in time.", self.record
            )
        raise self._lost(self._last) from self._last

    @property
    def _name(self) -> str:
        return f"Operation {self.record.id}" if self.record.id else "The operation"

    def _lost(self, error: HoldfastError) -> OperationLost:
        record = self.record
        return OperationLost(
            f"{self._name} was {record.state} when last seen, and how it ended is not known: "
            f"{error}",
            record,
        )

    async def _denial(self, error: NotFound) -> None:
        """Raise `OperationLost` if the node has been ready, and without the operation, for long."""
        try:
            await self._core.call("GET", "/readyz", patient=False)
        except HoldfastError:
            self._denied = None
            return
        now = time.monotonic()
        self._denied = self._denied or now
        if now - self._denied >= UNKNOWN_SECONDS:
            raise OperationLost(
                f"The node does not know operation {self.record.id} any more.", self.record
            ) from error


def _broken(error: HoldfastError) -> bool:
    """Whether the fault is the node's, which may be another system soon."""
    return getattr(error, "status", 0) >= 500


async def follow(
    core: Core,
    patience: Patience,
    *,
    step: Seen | None = None,
    poll_seconds: float = POLL_SECONDS,
) -> OperationRecord:
    """Return an operation once it succeeded; `step` is awaited with what each poll shows.

    Raises `OperationFailed` if it ended otherwise, `OperationLost` if that is not known by the
    deadline, `OperationUnfinished` if it has not ended by then, and what calls raise.
    """
    while True:
        patience.check()
        asked = time.monotonic()
        try:
            answer = await core.poll(patience.record.id, poll_seconds, patience.left)
            record = patience.saw(answer.document)
            if record.final:
                return record
            if step is not None:
                await step(record)
        except (OperationFailed, OperationLost, OperationUnfinished):
            raise
        except HoldfastError as error:
            await patience.after(error)
            continue
        if time.monotonic() - asked < min(1.0, poll_seconds):
            # A daemon that stops answers at once.
            await patience.pause(core.retries.pause(3))


async def events(core: Core, patience: Patience) -> AsyncIterator[OperationRecord]:
    """Yield an operation as it changes, until its end, over as many connections as it takes.

    It may end in any final state. Raises as `follow` does, but for `OperationFailed`.
    """
    while True:
        patience.check()
        began = time.monotonic()
        try:
            async with core.open(
                f"{operation_path(patience.record.id)}/events",
                accept=_NDJSON,
                read_seconds=min(_SILENCE_SECONDS, patience.left + 1.0),
                deadline=patience.deadline,
            ) as reply:
                async for line in lines(reply.pieces):
                    try:
                        record = patience.saw(json.loads(line))
                    except OperationFailed as failed:
                        record = failed.operation
                    yield record
                    if record.final:
                        return
        except ValueError as error:
            await patience.after(Unreachable(f"An event was cut off: {error}"))
        except HoldfastError as error:
            await patience.after(error)
        else:  # the daemon stops
            if time.monotonic() - began < 1.0:
                await patience.pause(core.retries.pause(3))


async def lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the whole lines of a body that are not empty."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
