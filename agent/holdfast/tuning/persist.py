"""Writes down what should be there at boot, before holdfast runs: sysctl.d, udev, tmpfiles.d."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from holdfast.tuning.knobs import Knob
from holdfast.tuning.machine import Device, Machine
from holdfast.tuning.resolve import Wanted
from holdfast.tuning.subsystems.persistence import ABSENT, PLACES, knob_of

_HEADER = (
    "# Written by holdfast for profile {profile} (holdfast tune apply --persist).\n"
    "# Removed by `holdfast tune rollback`. Do not edit: change the profile and apply it again.\n"
)
# Anything else could end the string in a rule, or be taken for a pattern or a substitution.
_SAFE = re.compile(r"[A-Za-z0-9_ :.=-]+")
_THP = {"transparent_hugepages": "enabled", "transparent_hugepages_defrag": "defrag"}


def files_for(
    profile: str, wanted: Sequence[Wanted], machine: Machine
) -> tuple[dict[Knob, str], list[str]]:
    """Return the content of each file, empty for none, and notes on what no file can bring back."""
    notes: list[str] = []
    by_subsystem: dict[str, list[Wanted]] = {}
    for one in wanted:
        by_subsystem.setdefault(one.knob.subsystem, []).append(one)
    lines = {
        "sysctl.d": [f"{one.knob.name} = {one.value}" for one in by_subsystem.get("sysctl", ())],
        "udev": list(_rules(by_subsystem.get("block", ()), machine.devices, notes)),
        "tmpfiles.d": [
            *(
                f"w /sys/kernel/mm/transparent_hugepage/{_THP[one.knob.name]} - - - - {one.value}"
                for one in by_subsystem.get("memory", ())
                if one.knob.name in _THP
            ),
            *(
                f"w /sys/module/{one.knob.target}/parameters/{one.knob.name} - - - - {one.value}"
                for one in by_subsystem.get("modules", ())
            ),
        ],
    }
    if by_subsystem.get("network"):
        notes.append(
            "Settings of interfaces are not written to files; holdfast sets them at start."
        )
    if any(one.knob.name == "swap" for one in by_subsystem.get("memory", ())):
        notes.append("Swap comes back at boot if /etc/fstab or a swap unit names it.")
    header = _HEADER.format(profile=profile)
    return {
        knob_of(place): header + "".join(f"{line}\n" for line in lines[place])
        if lines[place]
        else ABSENT
        for place in PLACES
    }, notes


def no_files() -> dict[Knob, str]:
    """Every place without a file."""
    return {knob_of(place): ABSENT for place in PLACES}


def _rules(
    wanted: Iterable[Wanted], devices: Mapping[str, Device], notes: list[str]
) -> Iterable[str]:
    by_device: dict[str, list[Wanted]] = {}
    for one in wanted:
        by_device.setdefault(one.knob.target, []).append(one)
    for name, settings in by_device.items():
        match = _match(devices.get(name))
        if match is None:
            notes.append(
                f"{name} has nothing that tells it from others after a boot, so no udev rule was "
                "written for it; holdfast sets it when it appears."
            )
            continue
        settings.sort(key=lambda one: one.knob.name != "scheduler")
        values = ", ".join(f'ATTR{{queue/{one.knob.name}}}="{one.value}"' for one in settings)
        yield f'ACTION=="add|change", SUBSYSTEM=="block", {match}, {values}'


def _match(device: Device | None) -> str | None:
    """Find a device by what it keeps between boots: an array's UUID, a disk's id or serial."""
    if device is None:
        return None
    known = device.described
    if known.type == "md":
        return 'KERNEL=="md*", TEST=="md"' if known.name.startswith("md") else None
    for key, value in (("ATTRS{wwid}", known.wwid), ("ENV{ID_SERIAL_SHORT}", known.serial)):
        if value and _SAFE.fullmatch(value):
            return f'ENV{{DEVTYPE}}=="disk", {key}=="{value}"'
    return None
