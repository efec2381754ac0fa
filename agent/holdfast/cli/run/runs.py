"""Operations as the command line sees them: updates to show, and a way to cancel."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Protocol

from holdfast.cli.run.client import Api, ConnectionLostError
from holdfast.cli.run.exchange import lines_of
from holdfast.cli.terminal.errors import CliError

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled", "interrupted"})
RECONNECT_SECONDS = 30.0  # long enough for a daemon that is being restarted
CANCEL_SECONDS = 10.0
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
        lost_since: float | None = None
        while self.operation["state"] not in FINAL_STATES:
            try:
                for update in self._events():
                    lost_since = None
                    self.operation = update
                    yield update
            except ConnectionLostError as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > RECONNECT_SECONDS:
                    raise CliError(
                        f"lost the daemon while operation {self.id} was running ({error}); once it "
                        f"is back: holdfast op watch {self.id}"
                    ) from error
                time.sleep(0.5)  # nothing announces that a daemon came back

    def cancel(self) -> None:
        """Ask the daemon to stop it."""
        self._api.post(f"/v1/operations/{self.id}/cancel")

    def _events(self) -> Iterator[dict[str, Any]]:
        path = f"/v1/operations/{self.id}/events"
        with self._api.stream(path, accept="application/x-ndjson") as response:
            for line in lines_of(response):
                yield json.loads(line)
