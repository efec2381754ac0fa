"""A whole re-imaging as one call: stage, arm, reboot, and wait for the confirmation."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from holdfast_client.core import Core, new_key
from holdfast_client.errors import (
    AttemptChanged,
    Conflict,
    HeldBack,
    HoldfastError,
    NodeImaging,
    ProblemError,
)
from holdfast_client.following import Patience, follow
from holdfast_client.record import OperationRecord

MAX_KEY = 240
"""Characters of a key: each step has one made of it."""
_POLL_SECONDS = 0.5
_STEP_SECONDS = 3600.0
"""An order to reboot is answered once the fleet's lock is had and the operator's command ended."""
_HELD_SECONDS = 30.0
"""After which a node that was held back is asked again, if it does not say when."""
_OPERATORS = "before-reboot"
"""The gate that is a command of the operator: what it could not do, a person should see."""

Changed = Callable[[str], None]


class ReimageRun:
    """One attempt at re-imaging a node, which `run` continues wherever it is."""

    def __init__(
        self, core: Core, key: str | None, timeout: float, changed: Changed | None
    ) -> None:
        if key is not None and not 0 < len(key) <= MAX_KEY:
            raise ValueError(f"A key of a re-imaging has 1 to {MAX_KEY} characters.")
        self._core = core
        self._key = key or new_key()
        self._changed = changed
        self._phase = ""
        self._patience = Patience(core, {}, timeout, self._away)

    async def run(self, params: Mapping[str, Any]) -> OperationRecord:
        """Return the operation once the new system is confirmed.

        Raises as `following.follow`; also `AttemptChanged`, and the problem of a step.
        """
        while not self._patience.record.id:
            self._patience.check()
            try:
                document = await self._step("stage", params)
            except HoldfastError as error:
                await self._after(error)
            else:
                record = self._patience.saw(document)
                if record.final:
                    return record
        return await follow(
            self._core, self._patience, step=self._advance, poll_seconds=_POLL_SECONDS
        )

    async def _advance(self, record: OperationRecord) -> None:
        """Take the step that comes next, if it is ours to take."""
        self._enter(record.phase)
        step = {"staged": "arm", "armed": "reboot"}.get(record.phase)
        if step is None:
            return
        try:
            status = await self._step(step, {"operation": record.id})
        except ProblemError as error:
            if not isinstance(error, Conflict) or not await self._moved(record):
                await self._after(error)
            return
        self._enter(str(status.get("state", "")))
        if step == "arm" and status.get("state") == "staged":
            raise AttemptChanged(
                f"Operation {record.id} was armed, and another caller disarmed it.",
                record,
            )

    async def _moved(self, record: OperationRecord) -> bool:
        """Whether the node is past the step by now, by a call of another one who continued it."""
        answer = await self._core.poll(record.id, 0.0, self._patience.left)
        return self._patience.saw(answer.document).phase != record.phase

    async def _step(self, step: str, body: Mapping[str, Any]) -> dict[str, Any]:
        # One key for each step, the same whenever and by whomever the run is continued.
        answer = await self._core.call(
            "POST",
            f"/v1/reimage/{step}",
            body=body,
            key=f"{self._key}.{step}",
            patient=False,
            read_seconds=max(1.0, min(_STEP_SECONDS, self._patience.left)),
        )
        document: dict[str, Any] = answer.document
        return document

    async def _after(self, error: HoldfastError) -> None:
        """Wait and continue: a refusal with a time is not final, nor is a closed window's."""
        seconds = getattr(error, "retry_after", None)
        if isinstance(error, HeldBack) and error.problem.get("gate") != _OPERATORS:
            seconds = seconds or random.uniform(0.5, 1.5) * _HELD_SECONDS  # noqa: S311
        if seconds is not None:
            await self._patience.pause(seconds + self._core.retries.pause(3))
        else:
            await self._patience.after(error)

    def _away(self, error: HoldfastError) -> None:
        self._enter("imaging" if isinstance(error, NodeImaging) else "unreachable")

    def _enter(self, phase: str) -> None:
        if phase != self._phase:
            self._phase = phase
            if self._changed is not None:
                self._changed(phase)
