"""Block devices as sysfs shows them, with what udev knows besides."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from holdfast.node.models import BlockDevice
from holdfast.node.paths.files import read_int, read_text

log = logging.getLogger(__name__)

_LVM_DIGITS = 32
_SECTOR = 512  # the unit of `size`, whatever the device's blocks are
_Type = Literal["disk", "partition", "dm", "md", "loop"]


class Sysfs:
    """Block devices of this machine."""

    def __init__(
        self, sys: Path = Path("/sys"), dev: Path = Path("/dev"), *, udev: bool = True
    ) -> None:
        """`udev`: whether to ask it for what the kernel does not report; some names then differ."""
        self._sys = sys
        self._dev = dev
        self._asks_udev = udev and sys == Path("/sys")

    def names(self) -> Sequence[str]:
        """Return the kernel's names of all block devices but partitions, sorted."""
        try:
            return sorted(entry.name for entry in (self._sys / "block").iterdir())
        except OSError:
            return []

    def partitions(self, name: str) -> Sequence[str]:
        """Return the names of a disk's partitions that the kernel knows."""
        where = (self._sys / "class/block" / name).resolve()
        return sorted(entry.parent.name for entry in where.glob("*/partition"))

    def holders(self, name: str) -> Sequence[str]:
        """Return the names of the devices that lie right on this one: md, dm and the like."""
        try:
            return sorted(
                entry.name for entry in (self._sys / "class/block" / name / "holders").iterdir()
            )
        except OSError:
            return []

    def volume_group(self, name: str) -> str | None:
        """Return the UUID of the group whose logical volume a device is, as LVM prints it."""
        uuid = read_text(self._sys / "class/block" / name / "dm/uuid") or ""
        prefix, _, rest = uuid.partition("-")
        if prefix != "LVM" or len(rest) < 2 * _LVM_DIGITS:
            return None
        parts = [rest[:6], *(rest[at : at + 4] for at in range(6, 26, 4)), rest[26:_LVM_DIGITS]]
        return "-".join(parts)

    def start_bytes(self, name: str) -> int:
        """Return where a partition begins on its disk; 0 for what is no partition."""
        return (read_int(self._sys / "class/block" / name / "start") or 0) * _SECTOR

    def removable(self, name: str) -> bool:
        """Whether the medium can be taken out."""
        return bool(read_int(self._sys / "class/block" / name / "removable"))

    def udev_properties(self, name: str) -> Mapping[str, str]:
        """Return udev's properties of a device; none where there is no udev."""
        number = read_text(self._sys / "class/block" / name / "dev")
        return {} if number is None else self._udev(number)

    def by_number(self, number: str) -> str | None:
        """Return the kernel's name of the device `major:minor`, or None."""
        link = self._sys / "dev/block" / number
        return link.resolve().name if link.exists() else None

    def by_path(self, path: str) -> str | None:
        """Return the kernel's name of a device node such as `/dev/mapper/data`, or None."""
        if not path.startswith("/"):
            return None
        try:
            status = Path(path).stat()
        except OSError:
            return None
        if not stat.S_ISBLK(status.st_mode):
            return None
        return self.by_number(f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")

    def btrfs_members(self, name: str) -> Sequence[str]:
        """Return all devices of the btrfs file system that `name` is one of."""
        for members in (self._sys / "fs/btrfs").glob("*/devices"):
            if (members / name).exists():
                return sorted(member.name for member in members.iterdir())
        return [name]

    def describe(self, name: str) -> BlockDevice | None:
        """Return what is known of a device, or None if it is gone."""
        entry = self._sys / "class/block" / name
        number = read_text(entry / "dev")
        if number is None:
            return None
        where = entry.resolve()
        kind = _type_of(where, name)
        known = self._udev(number)
        sectors, read_only = read_int(where / "size"), read_int(where / "ro")
        rotational = read_int(where / "queue/rotational")
        return BlockDevice(
            name=name,
            path=self._node(where, name, kind),
            type=kind,
            detail=_detail(where, kind),
            number=number,
            size_bytes=None if sectors is None else sectors * _SECTOR,
            read_only=None if read_only is None else bool(read_only),
            model=_first(read_text(where / "device/model"), known.get("ID_MODEL"))
            if kind == "disk"
            else None,
            serial=_serial(where, known) if kind == "disk" else None,
            wwid=_first(
                read_text(where / "wwid"), read_text(where / "device/wwid"), known.get("ID_WWN")
            ),
            rotational=None if rotational is None else bool(rotational),
            scheduler=_chosen(read_text(where / "queue/scheduler")),
            read_ahead_kb=read_int(where / "queue/read_ahead_kb"),
            nr_requests=read_int(where / "queue/nr_requests"),
            logical_block_size=read_int(where / "queue/logical_block_size"),
            physical_block_size=read_int(where / "queue/physical_block_size"),
            lies_on=_below(where, kind),
        )

    def _node(self, where: Path, name: str, kind: _Type) -> str:
        mapped = read_text(where / "dm/name") if kind == "dm" else None
        if mapped is not None:
            return f"{self._dev}/mapper/{mapped}"
        # The kernel writes `!` in sysfs for a slash in the name of a node.
        return f"{self._dev}/{name.replace('!', '/')}"

    def _udev(self, number: str) -> Mapping[str, str]:
        """Return udev's properties of a device; none where there is no udev, as in containers."""
        if self._udev_context is None:
            return {}
        import pyudev  # noqa: PLC0415 - loads libudev, which not everybody needs

        major, minor = (int(part) for part in number.split(":"))
        try:
            device = pyudev.Devices.from_device_number(
                self._udev_context, "block", os.makedev(major, minor)
            )
            # Not the mapping itself: it asks libudev again at each access.
            return {str(key): str(value) for key, value in device.properties.items()}
        except (pyudev.DeviceNotFoundError, OSError, UnicodeError) as error:
            log.debug("udev does not know %s: %s", number, error)
            return {}

    @cached_property
    def _udev_context(self) -> Any:
        if not self._asks_udev:
            return None
        try:
            import pyudev  # noqa: PLC0415

            return pyudev.Context()
        except (ImportError, OSError) as error:
            log.info("no libudev (%s): models and serial numbers are read from /sys alone", error)
            return None


def _type_of(where: Path, name: str) -> _Type:
    if (where / "partition").exists():
        return "partition"
    if (where / "dm").is_dir():
        return "dm"
    if (where / "md").is_dir():
        return "md"
    return "loop" if name.startswith("loop") else "disk"


def _detail(where: Path, kind: _Type) -> str | None:
    match kind:
        case "md":
            return read_text(where / "md/level")
        case "dm":
            uuid = read_text(where / "dm/uuid") or ""
            prefix, dash, _ = uuid.partition("-")
            return prefix.lower() if dash else None
        case "loop":
            return read_text(where / "loop/backing_file")
        case _:
            return None


def _below(where: Path, kind: _Type) -> list[str]:
    if kind == "partition":
        return [where.parent.name]
    try:
        return sorted(entry.name for entry in (where / "slaves").iterdir())
    except OSError:
        return []


def _serial(where: Path, known: Mapping[str, str]) -> str | None:
    return _first(
        read_text(where / "device/serial"),
        read_text(where / "serial"),
        known.get("ID_SERIAL_SHORT"),
        known.get("ID_SCSI_SERIAL"),
        _vital_product_data(where / "device/vpd_pg80"),
    )


def _vital_product_data(path: Path) -> str | None:
    """Read the serial number of a SCSI disk: a header of four bytes, then ASCII."""
    try:
        page = path.read_bytes()
    except OSError:
        return None
    return page[4:].decode("ascii", "replace").strip("\0 ") or None


def _first(*candidates: str | None) -> str | None:
    return next((candidate for candidate in candidates if candidate), None)


def _chosen(schedulers: str | None) -> str | None:
    """Pick `none` out of `[none] mq-deadline`."""
    if schedulers is None:
        return None
    _, bracket, rest = schedulers.partition("[")
    return rest.partition("]")[0] if bracket else schedulers
