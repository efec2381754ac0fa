"""The files of a machine with devices, as the kernel would show them."""

from __future__ import annotations

from pathlib import Path

from holdfast.node.models import RootTopology
from holdfast.node.storage.devices import Sysfs
from holdfast.node.storage.topology import describe_root


class Machine:
    """The files of a machine's /proc and /sys, as its kernel would show them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.proc, self.sys = base / "proc", base / "sys"
        self._mounts: list[str] = []
        (self.proc / "self").mkdir(parents=True)
        (self.sys / "class/block").mkdir(parents=True)
        (self.sys / "dev/block").mkdir(parents=True)

    def device(self, where: str, number: str, **attributes: str) -> None:
        """Add a device at a path below /sys/devices; `queue__scheduler` is `queue/scheduler`."""
        directory = self.sys / "devices" / where
        directory.mkdir(parents=True)
        attributes = {"dev": number, "ro": "0", "size": "2048"} | attributes
        for key, value in attributes.items():
            file = directory / key.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
        (self.sys / "class/block" / directory.name).symlink_to(directory)
        (self.sys / "dev/block" / number).symlink_to(directory)

    def slave(self, upper: str, lower: str) -> None:
        """Declare that one device is on another one."""
        slaves = (self.sys / "class/block" / upper).resolve() / "slaves"
        slaves.mkdir(exist_ok=True)
        (slaves / lower).symlink_to((self.sys / "class/block" / lower).resolve())

    def mount(self, number: str, point: Path | str, kind: str = "ext4", source: str = "x") -> None:
        escaped = str(point).replace(" ", r"\040")
        self._mounts.append(f"30 1 {number} / {escaped} rw,noatime - {kind} {source} rw")
        (self.proc / "self/mountinfo").write_text("\n".join(self._mounts) + "\n")

    def first_process(self, *lines: str) -> None:
        """Set what the machine's first process sees."""
        (self.proc / "1").mkdir()
        (self.proc / "1/mountinfo").write_text("".join(f"{line}\n" for line in lines))

    def describe(self, root: Path) -> RootTopology:
        return describe_root(root, proc=self.proc, sysfs=Sysfs(self.sys))
