"""Writes down what should be there at boot, before holdfast runs: sysctl.d, udev, tmpfiles.d."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ValidationError

from holdfast.privileged.writes import (
    OwnFileWrite,
    SysctlFileWrite,
    TmpfilesFileWrite,
    UdevFileWrite,
    UdevRule,
)
from holdfast.tuning.planning.inventory import Device, Inventory
from holdfast.tuning.planning.knobs import Knob
from holdfast.tuning.planning.resolve import Wanted
from holdfast.tuning.subsystems.persistence import ABSENT, PLACES, knob_of, value_of

_THP = {"transparent_hugepages": "enabled", "transparent_hugepages_defrag": "defrag"}
_Model = TypeVar("_Model", SysctlFileWrite, UdevFileWrite, TmpfilesFileWrite)


def files_for(
    profile: str, wanted: Sequence[Wanted], machine: Inventory
) -> tuple[dict[Knob, str], list[str]]:
    """Return the content of each file, empty for none, and notes on what no file can restore."""
    notes: list[str] = []
    by_subsystem: dict[str, list[Wanted]] = {}
    for setting in wanted:
        by_subsystem.setdefault(setting.knob.subsystem, []).append(setting)

    def fitting(model: type[_Model], field: str, some: Iterable[tuple[Wanted, Any]]) -> list[Any]:
        """Leave out what a line of the file cannot carry."""
        fits = []
        for setting, line in some:
            try:
                model.model_validate({field: [line]})
            except ValidationError:
                notes.append(
                    f"{setting.knob} = {setting.value} cannot be written to a file; holdfast "
                    "sets it at start."
                )
            else:
                fits.append(line)
        return fits

    sysctls = by_subsystem.get("sysctl", ())
    memory = [setting for setting in by_subsystem.get("memory", ()) if setting.knob.name in _THP]
    modules = by_subsystem.get("modules", ())
    files: dict[str, OwnFileWrite] = {
        "sysctl.d": SysctlFileWrite(
            profile=profile,
            settings=fitting(
                SysctlFileWrite,
                "settings",
                ((sysctl, (sysctl.knob.name, sysctl.value)) for sysctl in sysctls),
            ),
        ),
        "udev": UdevFileWrite(
            profile=profile,
            rules=list(_rules(by_subsystem.get("block", ()), machine.devices, notes)),
        ),
        "tmpfiles.d": TmpfilesFileWrite(
            profile=profile,
            huge_pages=fitting(
                TmpfilesFileWrite,
                "huge_pages",
                ((setting, (_THP[setting.knob.name], setting.value)) for setting in memory),
            ),
            modules=fitting(
                TmpfilesFileWrite,
                "modules",
                (
                    (module, (module.knob.target, module.knob.name, module.value))
                    for module in modules
                ),
            ),
        ),
    }
    if by_subsystem.get("network"):
        notes.append(
            "Settings of interfaces are not written to files; holdfast sets them at start."
        )
    if any(setting.knob.name == "swap" for setting in by_subsystem.get("memory", ())):
        notes.append("Swap comes back at boot if /etc/fstab or a swap unit names it.")
    return {knob_of(place): value_of(files[place]) for place in PLACES}, notes


def no_files() -> dict[Knob, str]:
    """Every place without a file."""
    return {knob_of(place): ABSENT for place in PLACES}


def _rules(
    wanted: Iterable[Wanted], devices: Mapping[str, Device], notes: list[str]
) -> Iterable[UdevRule]:
    by_device: dict[str, list[Wanted]] = {}
    for on_device in wanted:
        by_device.setdefault(on_device.knob.target, []).append(on_device)
    for name, settings in by_device.items():
        settings.sort(key=lambda on_device: on_device.knob.name != "scheduler")
        values = [(setting.knob.name, setting.value) for setting in settings]
        rule = _rule(devices.get(name), values)
        if rule is None:
            notes.append(
                f"{name} has nothing that identifies it after a boot, so no udev rule was "
                "written for it; holdfast sets it when it appears."
            )
        else:
            yield rule


def _rule(device: Device | None, settings: list[tuple[str, str]]) -> UdevRule | None:
    """Match a device by what it keeps between boots: an array's kind, a disk's id or serial."""
    if device is None:
        return None
    known = device.described
    ways = [("wwid", known.wwid), ("serial", known.serial)]
    if known.type == "md":
        ways = [("md", "")] if known.name.startswith("md") else []
    for match, value in ways:
        if not value and match != "md":
            continue
        # A value could end the string in a rule, or be taken for a pattern or a substitution.
        with suppress(ValidationError):
            return UdevRule.model_validate({"match": match, "value": value, "settings": settings})
    return None
