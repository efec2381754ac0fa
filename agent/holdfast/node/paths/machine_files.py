"""Where the files of a machine are: code that inspects one can inspect the tree of another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from holdfast.node.storage.devices import Sysfs
from holdfast.node.storage.mounts import Mount, read_mounts


@dataclass(frozen=True)
class MachineFiles:
    """A machine: this one, or one whose root directory is mounted below this one's."""

    root: Path = Path("/")
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    dev: Path = Path("/dev")
    kernel: str = field(default_factory=lambda: os.uname().release)
    """Release of the kernel that runs."""
    loop_disks: bool = False
    """Take a loop device for a disk; where no better disks can be had."""

    def path(self, inside: str | Path) -> Path:
        """Return where a path of the machine is to be found from here."""
        return self.root / str(inside).lstrip("/")

    def inside(self, path: Path) -> str:
        """Return a path found from here as the machine itself calls it."""
        return "/" + str(path.relative_to(self.root)) if path != self.root else "/"

    def mounts(self) -> Sequence[Mount]:
        """Return the mounts of the machine, their points as it calls them. Raises `OSError`."""
        found = read_mounts(self.proc)
        if self.root == Path("/"):
            return found
        return [
            replace(mount, point=self.inside(Path(mount.point)))
            for mount in found
            if Path(mount.point).is_relative_to(self.root)
        ]

    def sysfs(self, *, udev: bool = True) -> Sysfs:
        """Return its block devices; without udev exactly as the kernel alone reports them."""
        return Sysfs(self.sys, self.dev, udev=udev)

    @property
    def boots_with_efi(self) -> bool:
        """Whether the firmware that booted it was UEFI."""
        return (self.sys / "firmware/efi").exists()
