"""What a roll will do, in its order, as text."""

from __future__ import annotations

from holdfast_rollout.inventory import Inventory


def waves(inventory: Inventory) -> list[tuple[str, list[str]]]:
    """Return the nodes as they are disturbed, by zone, as many at a time as the rules allow.

    A free place is taken at once, so that a wave does not wait for its slowest node.
    """
    rules = inventory.rules
    width = min(rules.per_zone, rules.total or rules.per_zone)
    planned: list[tuple[str, list[str]]] = []
    for number, (zone, nodes) in enumerate(inventory.zones.items()):
        names = [node.name for node in nodes]
        canary = min(rules.canary, len(names)) if number == 0 else 0
        steps = [names[:canary][at : at + width] for at in range(0, canary, width)]
        steps += [names[at : at + width] for at in range(canary, len(names), width)]
        planned += [(zone, step) for step in steps]
    return planned


def plan_text(inventory: Inventory) -> str:
    """Return the plan for a person."""
    rules = inventory.rules
    zones = inventory.zones
    lines = [
        f"Roll {inventory.roll}: {len(inventory.nodes)} nodes in {len(zones)} zones "
        f"become {inventory.image.descriptor}",
        f"  at a time   {rules.per_zone} of a zone"
        + (f", {rules.total} in all" if rules.total else "")
        + f", {rules.zones_at_once} zone{'s' if rules.zones_at_once > 1 else ''}",
        f"  stops at    {rules.max_failed + 1} failed or {rules.max_unknown + 1} unknown",
        f"  windows     {'; '.join(rules.windows) or 'always'}",
        f"  alerts      {len(inventory.alerts)} sources; gates {len(inventory.gates)}",
        "",
    ]
    for number, (zone, names) in enumerate(waves(inventory), 1):
        mark = "  canary" if number == 1 and rules.canary else ""
        lines.append(f"  {number:>3}  {zone:<12} {', '.join(names)}{mark}")
    if rules.zones_at_once > 1:
        lines += ["", f"Up to {rules.zones_at_once} zones are disturbed at the same time."]
    return "\n".join(lines) + "\n"
