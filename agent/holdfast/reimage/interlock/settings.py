"""The gates as the settings want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.reimage.interlock.fleet_lock import FleetLock
from holdfast.reimage.interlock.interlock import Rules
from holdfast.reimage.interlock.window import Windows, parse_window

if TYPE_CHECKING:
    from holdfast.config import Settings
    from holdfast.node.service import Place


def fleet_lock_of(settings: Settings, place: Place) -> FleetLock | None:
    """Return the lock manager; None where the settings name none."""
    wanted = settings.reimage.fleet_lock
    if not wanted.url:
        return None
    return FleetLock(
        url=wanted.url,
        id=wanted.id or place.node_id or "",
        group=settings.fleet_group,
        ca_file=settings.reimage.ca_file,
    )


def rules_of(settings: Settings, place: Place) -> Rules:
    """Return what is asked besides, and how long."""
    reimage = settings.reimage
    return Rules(
        windows=Windows([parse_window(text) for text in reimage.window]),
        lock_seconds=reimage.fleet_lock.seconds,
        command=reimage.before_reboot,
        command_seconds=reimage.before_reboot_seconds,
        environment={"NODE_ID": place.node_id or "", "NODE_GROUP": settings.fleet_group},
    )
