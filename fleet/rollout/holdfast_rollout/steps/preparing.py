"""What does not disturb a node: check it, and stage the image; and undo the latter."""

from __future__ import annotations

from holdfast_rollout.interfaces import Away, Json, NodeStatus, OperationStatus, Refused
from holdfast_rollout.steps.context import Context, Pace, ended, insist, passed

FEATURES = ("attempt-precondition", "idempotency-key")
"""What a node has to be able to do, so that two controllers cannot disturb each other."""
UNDER_WAY = frozenset({"staging", "staged", "armed", "rebooting", "imaging", "booted"})
WENT_DOWN = frozenset({"rebooting", "imaging", "booted"})
"""An attempt in these is not in the boot that it was armed in, or is about to leave it."""
UNPROVEN = frozenset({"unconfirmed", "unknown"})


async def check(context: Context, arguments: Json) -> Json:
    """Check whether a node can be re-imaged, or is already.

    `operations` are those of earlier attempts of this roll: one that is under way is continued.
    `boots` has for each the boot that it was armed in: a node that is still in that one was not
    rebooted, whatever it reports. The result has `boot_id`, and `boot_before`, which is the boot
    that the new system must not be in; it is empty where that is not known.
    """
    node = arguments["node"]
    api = context.nodes(node)
    try:
        features = await insist(context, node, api.features)
        boot_id = await insist(context, node, api.boot_id)
        seen = await insist(context, node, api.status)
    except Away as error:
        return ended("unknown", f"It does not answer: {error}", disturbed=True)
    except Refused as error:
        return ended("failed", f"It cannot be checked: {error}")
    missing = [name for name in FEATURES if name not in features]
    if missing:
        return ended("failed", f"Its holdfast cannot do {', '.join(missing)}: upgrade it.")
    result = _judged(context, seen, arguments.get("operations", []))
    before = boot_id
    if result.get("already") or result.get("state") in WENT_DOWN:
        before = arguments.get("boots", {}).get(seen.operation, "")
    if result.get("already") and before == boot_id:
        return ended(
            "failed",
            f"It reports the image in the boot in which {seen.operation} was armed: it was not "
            "rebooted. Re-image it by hand and resume, or accept it.",
            disturbed=True,
        )
    return {**result, "boot_id": boot_id, "boot_before": before}


def _judged(context: Context, seen: NodeStatus, own: list[str]) -> Json:
    wanted = context.inventory.image.descriptor_sha256
    if seen.state == "confirmed" and wanted is not None and seen.image_sha256 == wanted:
        return passed(already=True, operation=seen.operation)
    if seen.state in UNPROVEN:
        return ended(
            "failed",
            f"It is {seen.state}: {seen.reason} Confirm it or roll it back, then resume.",
            disturbed=True,
        )
    if seen.state in UNDER_WAY:
        if seen.operation in own:
            return passed(operation=seen.operation, state=seen.state)
        return ended(
            "failed", f"Another re-imaging is under way there: {seen.operation} is {seen.state}."
        )
    if seen.blocked:
        return ended("failed", f"It cannot be re-imaged: {' '.join(seen.blocked)}")
    return passed()


async def stage(context: Context, arguments: Json) -> Json:
    """Stage the image, and return once it is on the node's data volume."""
    node, key = arguments["node"], arguments["key"]
    inventory = context.inventory
    members = inventory.image.model_dump(mode="json", exclude_none=True)
    try:
        started = await insist(
            context,
            node,
            lambda: context.nodes(node).stage({**members, "confirm": "manual"}, f"{key}.stage"),
        )
    except Away as error:
        return ended("unknown", f"It stopped answering before it staged: {error}", disturbed=True)
    except Refused as error:
        return ended("failed", f"It does not stage the image: {error}")
    return await staged(context, node, started, inventory.times.stage)


async def staged(context: Context, node: str, started: OperationStatus, seconds: float) -> Json:
    """Wait until an operation that stages has done so; the result has the `operation`."""
    pace = Pace(context, node, seconds)
    seen = started
    away: Away | None = None
    while True:
        if seen.final:
            return ended("failed", f"Staging ended as {seen.state}: {seen.detail}")
        if seen.phase == "staged":
            return passed(operation=seen.id)
        if not await pace.turn():
            break
        try:
            wait = 0.0 if away else min(context.inventory.times.poll, pace.left)
            seen, away = await context.nodes(node).operation(started.id, wait), None
            context.board.node(node, progress(seen))
        except Away as error:
            away = error
            context.board.node(node, {"phase": "unreachable", "bytes_expected": None})
        except Refused as error:
            return ended("unknown", f"Its operation cannot be read: {error}")
    if away is not None:
        return ended("unknown", f"It stopped answering while it staged: {away}", disturbed=True)
    return ended("failed", f"It did not stage the image within {seconds:g} s.")


async def cancel(context: Context, arguments: Json) -> Json:
    """End the attempt of a node that was not disturbed; what was staged is deleted there."""
    node, operation = arguments["node"], arguments["operation"]
    try:
        await insist(
            context,
            node,
            lambda: context.nodes(node).cancel(operation, f"{arguments['key']}.cancel"),
        )
    except Away as error:
        return ended("unknown", f"It does not answer, and {operation} could not be ended: {error}")
    except Refused as error:
        return ended("failed", f"{operation} could not be ended: {error}")
    return passed()


def progress(seen: OperationStatus) -> Json:
    """Return what a board shows of an operation."""
    return {
        "phase": seen.phase,
        "bytes_done": seen.bytes_done,
        "bytes_expected": seen.bytes_expected,
        "bytes_per_second": seen.bytes_per_second,
    }
