# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Follows an operation of a node until it ends, or enters a phase."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ansible_collections.holdfast.agent.plugins.module_utils.node import (
    FINAL,
    Node,
    NodeError,
    pause_before,
)

UNKNOWN_SECONDS = 30.0
"""How long a daemon that is ready may deny an operation before it counts as lost."""


class Seen:
    """What is known of an operation."""

    def __init__(
        self, operation: Mapping[str, Any] | None, away: str | None, *, lost: bool
    ) -> None:
        """`away` is why the daemon did not answer last; `lost` is whether it denies knowing it."""
        self.operation = operation
        self.away = away
        self.lost = lost

    @property
    def ended(self) -> bool:
        """Whether it is over, successfully or not."""
        return self.operation is not None and self.operation["state"] in FINAL


def phase_of(operation: Mapping[str, Any]) -> str:
    """Return the phase of its progress."""
    return str((operation.get("progress") or {}).get("phase") or "")


def follow(node: Node, operation: str, seconds: float, phases: Collection[str] = ()) -> Seen:
    """Return once the operation ended or is in one of `phases`, or after `seconds`.

    A daemon that is away, as over a restart, is waited for. Raises `NodeError` for what waiting
    does not change.
    """
    deadline = time.monotonic() + seconds
    seen: Mapping[str, Any] | None = None
    denied: float | None = None
    failures = 0
    while True:
        away: str | None = None
        try:
            for event in _events(node, operation, deadline):
                seen, failures, denied = event, 0, None
                if event["state"] in FINAL or phase_of(event) in phases:
                    return Seen(seen, None, lost=False)
        except NodeError as error:
            if error.status == 404:
                denied = _denied(node, denied)
                if denied is not None and time.monotonic() - denied >= UNKNOWN_SECONDS:
                    return Seen(seen, str(error), lost=True)
            elif not error.transient and (error.status or 0) < 500:
                raise
            away = str(error)
        failures += 1
        pause = min(pause_before(failures) + 0.05, deadline - time.monotonic())
        if pause <= 0:
            return Seen(seen, away, lost=False)
        time.sleep(pause)


def _events(node: Node, operation: str, deadline: float) -> Iterator[Mapping[str, Any]]:
    """Yield an operation as it is now, however little time is left, and then as it changes."""
    yield node.operation(operation)
    left = deadline - time.monotonic()
    if left > 0:
        yield from node.events(operation, left)


def _denied(node: Node, since: float | None) -> float | None:
    """Return since when a daemon that is ready does not know an operation."""
    try:
        node.get("/readyz")
    except NodeError:
        return None
    return since or time.monotonic()


def describe(operation: Mapping[str, Any]) -> str:
    """Return in one sentence how an operation ended."""
    error = operation.get("error") or {}
    detail = " ".join(str(error.get("detail") or "").split())
    name = f"{operation['kind']} {operation['id']}"
    if operation["state"] == "succeeded":
        return f"{name} succeeded with the outcome {operation.get('outcome')}."
    return f"{name} ended as {operation['state']}{f': {detail}' if detail else '.'}"
