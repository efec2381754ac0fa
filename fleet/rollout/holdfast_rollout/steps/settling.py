"""What decides about the new system: gates, confirmation, stable readings; or the way back."""

from __future__ import annotations

from holdfast_rollout.interfaces import Away, Json, Refused
from holdfast_rollout.inventory import Gate
from holdfast_rollout.steps.context import Context, Pace, ended, insist, passed
from holdfast_rollout.steps.disturbing import variables
from holdfast_rollout.steps.preparing import staged
from holdfast_rollout.windows import Window


async def gate(context: Context, arguments: Json) -> Json:
    """Read every gate until it was good `stable` times in a row. `held` is what is not good."""
    for number, rule in enumerate(context.inventory.gates):
        held = await _stable(context, number, rule, variables(arguments))
        if held is not None:
            return {"verdict": "held", "reason": held}
    return passed()


async def _stable(
    context: Context, number: int, rule: Gate, environment: dict[str, str]
) -> str | None:
    deadline = context.clock.now() + rule.within_seconds
    good, last = 0, "it was not read"
    while True:
        context.heartbeat()
        reading = await context.surroundings.gate(number, environment)
        good = good + 1 if reading.good else 0
        if good >= rule.stable:
            return None
        if not reading.good:
            last = reading.detail
        if context.clock.now() + rule.every_seconds > deadline:
            return f"Gate {number + 1} did not hold within {rule.within_seconds:g} s: {last}"
        await context.clock.sleep(rule.every_seconds)


async def confirm(context: Context, arguments: Json) -> Json:
    """Have the node keep the new system; gives back the fleet's lock there."""
    node, operation = arguments["node"], arguments["operation"]
    key = f"{arguments['key']}.confirm"
    try:
        state = await insist(
            context, node, lambda: context.nodes(node).take("confirm", operation, key)
        )
    except Away as error:
        return ended("unknown", f"It stopped answering: {error}", disturbed=True)
    except Refused as error:
        return ended("failed", f"It was not confirmed: {error}", disturbed=True)
    if state != "confirmed":
        return ended("failed", f"It was to be confirmed, and is {state}.", disturbed=True)
    return passed()


async def verify(context: Context, arguments: Json) -> Json:
    """Check that the node is still in the boot that was gated, in the system that was meant.

    A node may come back, pass its gates, and go down again; or report what it did not do.
    """
    node = arguments["node"]
    api = context.nodes(node)
    try:
        seen = await insist(context, node, api.status)
        boot_id = await insist(context, node, api.boot_id)
    except (Away, Refused) as error:
        return ended("unknown", f"It did not stay up: {error}", disturbed=True)
    why = None
    if (seen.state, seen.operation) != ("confirmed", arguments["operation"]):
        why = f"It was confirmed, and is {seen.state} now, by {seen.operation}."
    elif arguments["image"] is not None and seen.image_sha256 != arguments["image"]:
        why = f"It reports another image than the one that was meant: {seen.image_sha256}."
    elif boot_id == arguments["boot_before"]:
        why = "It reports the boot id from before: it was not rebooted."
    elif boot_id != arguments["boot_id"]:
        why = "It was rebooted once more while its gates were read."
    return passed() if why is None else ended("failed", why, disturbed=True)


async def rollback(context: Context, arguments: Json) -> Json:
    """Have the node stage the system that it kept; the result has the new `operation`."""
    node, operation, key = arguments["node"], arguments["operation"], arguments["key"]
    api = context.nodes(node)
    try:
        status = await insist(context, node, api.status)
        if status.state == "booted":
            # Its operation waits for a confirmation, and must end first.
            await insist(context, node, lambda: api.cancel(operation, f"{key}.cancel"))
            await _unconfirmed(context, node)
        started = await insist(context, node, lambda: api.rollback(operation, f"{key}.rollback"))
    except Away as error:
        return ended(
            "unknown", f"It stopped answering before it went back: {error}", disturbed=True
        )
    except Refused as error:
        return ended("failed", f"It cannot be rolled back: {error}", disturbed=True)
    result = await staged(context, node, started, context.inventory.times.stage)
    return {**result, "disturbed": True} if result["verdict"] == "end" else result


async def _unconfirmed(context: Context, node: str) -> None:
    """Wait until a cancelled attempt has ended. Raises as `insist`, at the deadline `Away`."""
    pace = Pace(context, node, context.inventory.times.answer)
    while await pace.turn():
        status = await context.nodes(node).status()
        if status.state != "booted":
            return
    raise Away("its attempt did not end")


async def facts(context: Context, arguments: Json) -> Json:
    """Read what may hold the whole roll: the windows and the alerts.

    `held` says what does, and `again` in how many seconds to read them again.
    """
    del arguments
    rules = context.inventory.rules
    windows, now = [Window.parse(text) for text in rules.windows], context.clock.now()
    if windows and not any(window.is_open(now) for window in windows):
        again = min(window.opens(now) for window in windows) - now
        return {"held": f"No window is open: {'; '.join(rules.windows)}.", "again": again}
    reading = await context.surroundings.alerts()
    return {"held": "" if reading.good else reading.detail, "again": rules.recheck_seconds}


async def notify(context: Context, arguments: Json) -> Json:
    """Pass an event on to the operator's command."""
    await context.surroundings.notify(arguments)
    return {}
