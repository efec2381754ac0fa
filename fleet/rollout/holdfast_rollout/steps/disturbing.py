"""What disturbs a node: drain, arm, reboot, follow through both boots; and undo the arming."""

from __future__ import annotations

from holdfast_rollout.interfaces import Away, Json, OperationStatus, Refused
from holdfast_rollout.steps.context import Context, Pace, ended, insist, passed
from holdfast_rollout.steps.preparing import progress

DENIED_SECONDS = 60.0
"""How long a node that answers may deny its operation before it counts as lost: a system that has
just started may answer before the data volume is there."""


async def drain(context: Context, arguments: Json) -> Json:
    """Run the operator's drain command."""
    reading = await context.surroundings.hook("drain", variables(arguments))
    if not reading.good:
        return ended("failed", f"It could not be drained: {reading.detail}")
    return passed()


async def release(context: Context, arguments: Json) -> Json:
    """Run the operator's release command: the node serves again."""
    reading = await context.surroundings.hook("release", variables(arguments))
    if not reading.good:
        return ended("failed", f"It could not be released: {reading.detail}", disturbed=True)
    return passed()


async def arm(context: Context, arguments: Json) -> Json:
    """Have the next boot of the node write the image, if it is the attempt of this roll."""
    node, operation = arguments["node"], arguments["operation"]
    try:
        state = await insist(
            context,
            node,
            lambda: context.nodes(node).take("arm", operation, f"{arguments['key']}.arm"),
        )
    except Away as error:
        return ended("unknown", f"Whether it is armed is not known: {error}", disturbed=True)
    except Refused as error:
        return ended("failed", f"It was not armed: {error}")
    if state == "staged":
        return ended("failed", "It was armed, and another caller disarmed it.")
    return passed(state=state)


async def disarm(context: Context, arguments: Json) -> Json:
    """Take the arming back; what was staged stays."""
    node, operation = arguments["node"], arguments["operation"]
    key = f"{arguments['key']}.disarm.{arguments['number']}"
    try:
        state = await insist(
            context, node, lambda: context.nodes(node).take("disarm", operation, key)
        )
    except (Away, Refused) as error:
        return ended(
            "unknown", f"It may still be armed, and boot the imager: {error}", disturbed=True
        )
    if state not in ("staged", "idle"):
        return ended("unknown", f"It was to be disarmed, and is {state}.", disturbed=True)
    return passed(state=state)


async def reboot(context: Context, arguments: Json) -> Json:
    """Order the reboot once. `held` has why the node says no for now, and `again` when to ask."""
    node, operation = arguments["node"], arguments["operation"]
    try:
        state = await insist(
            context,
            node,
            lambda: context.nodes(node).take("reboot", operation, f"{arguments['key']}.reboot"),
        )
    except Away:
        # It may be on its way down: where it is shows by following the operation.
        return passed(state="unknown")
    except Refused as error:
        if error.gate is not None and error.gate != "before-reboot":
            again = max(error.retry_after or 0.0, context.inventory.times.poll)
            return {"verdict": "held", "reason": str(error), "again": again}
        return {"verdict": "refused", "reason": f"It does not reboot: {error}"}
    return passed(state=state)


async def follow(context: Context, arguments: Json) -> Json:
    """Follow an operation through both boots.

    The result has `state`: `booted` (checked, and waiting to be confirmed), `confirmed`,
    `failed` (the old system runs), `unconfirmed` (the new one runs and a check failed),
    `armed` (it was not rebooted), `disarmed`, or `unknown`.
    """
    node, operation = arguments["node"], arguments["operation"]
    left = float(arguments["deadline"]) - context.clock.now()
    # A controller that was away for longer than that has still to look for a while.
    pace = Pace(context, node, max(left, context.inventory.times.answer))
    return await _Follower(context, node, operation, pace).run()


class _Follower:
    """Polls one operation until it shows where the node ended."""

    def __init__(self, context: Context, node: str, operation: str, pace: Pace) -> None:
        self._context = context
        self._api = context.nodes(node)
        self._node = node
        self._operation = operation
        self._pace = pace
        self._was_away = True
        self._armed = 0
        self._denied: float | None = None
        self._why = "it was not seen since"

    async def run(self) -> Json:
        while await self._pace.turn():
            try:
                end = await self._look()
            except Away as error:
                self._was_away, self._denied, self._why = True, None, str(error)
                phase = "imaging" if error.imaging else "unreachable"
                self._context.board.node(self._node, {"phase": phase})
                continue
            except Refused as error:
                end = self._after(error)
            if end is not None:
                return end
        return _state("unknown", f"It did not come back in time: {self._why}")

    async def _look(self) -> Json | None:
        # At once after an absence: what it did meanwhile is known there already.
        wait = 0.0 if self._was_away else self._context.inventory.times.poll
        seen = await self._api.operation(self._operation, min(wait, self._pace.left))
        self._was_away, self._denied = False, None
        self._why = f"it is {seen.phase}"
        self._context.board.node(self._node, progress(seen))
        if seen.final:
            return await self._ended(seen)
        if seen.phase == "booted":
            status = await self._api.status()
            if status.operation != self._operation:
                return _state("unknown", f"Another attempt is there: {status.operation}.")
            if status.checked and status.state == "booted":
                return {**_state("booted"), "boot_id": await self._api.boot_id()}
            return None
        if seen.phase == "staged":
            return _state("disarmed", "Another caller disarmed it.")
        # Once may be a record that is about to change.
        self._armed = self._armed + 1 if seen.phase == "armed" else 0
        return _state("armed", "It was to reboot, and did not.") if self._armed > 1 else None

    async def _ended(self, seen: OperationStatus) -> Json:
        if seen.state == "succeeded":
            return {**_state("confirmed"), "boot_id": await self._api.boot_id()}
        if seen.problem == "not-reimaged":
            return _state("failed", seen.detail)
        status = await self._api.status()
        if status.operation == self._operation and status.state in ("unconfirmed", "failed"):
            return _state(status.state, status.reason or seen.detail)
        if status.operation == self._operation and status.state == "idle":
            return _state("failed", f"It was cancelled: {seen.detail}")
        return _state("unknown", seen.detail or f"It ended as {seen.state}.")

    def _after(self, error: Refused) -> Json | None:
        if error.slug != "not-found":
            self._why = str(error)
            return None
        now = self._context.clock.now()
        self._denied = now if self._denied is None else self._denied
        if now - self._denied < DENIED_SECONDS:
            return None
        return _state("unknown", f"The node does not know {self._operation} any more.")


def _state(state: str, reason: str = "") -> Json:
    return {"verdict": "go", "state": state, "reason": reason}


def variables(arguments: Json) -> dict[str, str]:
    """Return the environment of the operator's commands: what they are run for."""
    names = {"node": "NODE", "zone": "ZONE", "roll": "ROLL", "operation": "REIMAGE_OPERATION"}
    return {
        f"HOLDFAST_{name}": str(arguments[member])
        for member, name in names.items()
        if arguments.get(member)
    }
