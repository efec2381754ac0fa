"""Operations as the command line sees them: updates to show, and a way to cancel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

from holdfast.cli.run.client import Api
from holdfast.cli.terminal.errors import CliError
from holdfast_client.core import operation_path
from holdfast_client.errors import OperationLost
from holdfast_client.exchange import run_each
from holdfast_client.following import Patience, events
from holdfast_client.record import OperationRecord

RECONNECT_SECONDS = 30.0  # long enough for a daemon that is being restarted
LOCAL_ACTOR = "local"
"""The actor of work that no daemon does."""


class Run(Protocol):
    """One operation that was started or is watched."""

    @property
    def id(self) -> str:
        """The operation's id."""

    @property
    def can_leave(self) -> bool:
        """Whether it continues when this process ends."""

    def updates(self) -> Iterator[dict[str, Any]]:
        """Yield the operation at once, at each change and every second; ends after the final one.

        May be called again after it was interrupted.
        """

    def cancel(self) -> None:
        """Ask it to stop; the updates show when it did."""


class RemoteRun:
    """An operation of the daemon."""

    can_leave = True

    def __init__(self, api: Api, operation: dict[str, Any]) -> None:
        self._api = api
        self.operation = operation
        """As the daemon described it last."""
        self.id: str = operation["id"]

    def updates(self) -> Iterator[dict[str, Any]]:
        """Follow the event stream, and find the daemon again when it was restarted."""
        yield self.operation
        if OperationRecord(self.operation).final:
            return
        path = operation_path(self.id)
        patience = Patience(
            self._api.core, self.operation, math.inf, away_seconds=RECONNECT_SECONDS
        )
        try:
            with self._api.explained(path):
                for record in run_each(events(self._api.core, patience)):
                    self.operation = dict(record.data)
                    yield self.operation
        except OperationLost as error:
            raise CliError(self._lost(path, error)) from error

    def cancel(self) -> None:
        """Ask the daemon to stop it."""
        self._api.post(f"{operation_path(self.id)}/cancel")

    def _lost(self, path: str, error: OperationLost) -> str:
        reason = str(error)
        if error.__cause__ is not None:
            try:
                with self._api.explained(path):
                    raise error.__cause__
            except CliError as explained:
                reason = str(explained)
        return (
            f"lost the daemon while operation {self.id} was running ({reason}); once it is back: "
            f"holdfast op watch {self.id}"
        )
