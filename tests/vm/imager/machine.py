"""A machine that begins with the imager: QEMU boots it directly, and it ends at the reboot."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon.harness import dying_with_parent
from tests.support.waiting import until
from tests.vm.imager.images import NONCE
from tests.vm.pace import TIMER, patience
from tests.vm.reimage.firmware import OVMF
from tests.vm.reimage.qmp import Qmp

SECONDS = 240.0
"""Far above what it takes: the machine is emulated, and may share its cores."""

COMMAND_LINE = f"console=ttyS0 quiet panic=1 {TIMER} holdfast.nonce={NONCE}"
PROCESSORS = ("-smp", "2", "-accel", "tcg,thread=multi")
USER = "user"
"""QEMU's own network: this machine's loopback is `HOST`, and DHCP gives the address 10.0.2.15."""
ALONE = "hubport,hubid=0"
"""A network on which there is nobody else."""
HOST = "10.0.2.2"
MAC = "52:54:00:12:34:56"
HURRIED = ("-icount", "shift=0,align=off,sleep=off", "-accel", "tcg,thread=single")
"""Time goes by at once for a machine that only waits, so minutes of patience take seconds."""


@dataclass(frozen=True)
class Drive:
    """A disk of the machine."""

    path: Path
    """Raw."""
    serial: str
    nvme: bool = False
    node: Sequence[str] = ()
    """QEMU's options instead of those for the file; the node must be called `{name}`."""
    sector_bytes: int = 512


class Running:
    """A machine that runs."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self._console = directory / "console"
        self._log = directory / "qemu.log"
        self.qmp = Qmp(directory / "qmp")

    @property
    def console(self) -> str:
        """What it printed so far."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    @property
    def said(self) -> list[str]:
        """What the imager printed, line by line."""
        return re.findall(r"holdfast-imager: (.*?)\r*$", self.console, re.MULTILINE)

    def on_console(self, pattern: str, seconds: float = SECONDS) -> str:
        """Wait until something is printed, and return the match."""
        found = until(
            lambda: re.search(pattern, self.console) or self._process.poll() is not None,
            seconds=patience(seconds),
            what=f"{pattern!r} on the console",
            interval=0.05,
        )
        assert isinstance(found, re.Match), f"ended before {pattern!r}: {self.console[-3000:]}"
        return found[0]

    def rebooted(self, seconds: float = SECONDS) -> None:
        """Wait until it reboots, with which it ends here."""
        try:
            code = self._process.wait(patience(seconds))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end: {self.console[-3000:]}") from None
        assert code == 0, (code, self._log.read_text(), self.console[-3000:])

    @property
    def ended(self) -> bool:
        """Whether it rebooted, with which it ends here."""
        return self._process.poll() is not None

    def cut_power(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


def firmware_options(variables: Path) -> Sequence[str]:
    """Return QEMU's options for a machine whose UEFI boots its disks; it writes to `variables`."""
    flash = "if=pflash,format=raw"
    return (
        *("-drive", f"{flash},unit=0,readonly=on,file={OVMF.code}"),
        *("-drive", f"{flash},unit=1,file={variables}"),
    )


@contextmanager
def running(
    kernel: Path | None,
    initrd: Path | None,
    drives: Sequence[Drive],
    directory: Path,
    *,
    command_line: str = COMMAND_LINE,
    network: str | None = None,
    memory_mib: int = 256,
    options: Sequence[str] = PROCESSORS,
    wrapper: Sequence[str] = (),
) -> Iterator[Running]:
    """Switch it on; it is gone at the end.

    Without a kernel its firmware boots what is on its disks. `network` is what QEMU's network card
    is connected to, `options` replace those for its processors, and with `wrapper` QEMU is started.
    """
    directory.mkdir(parents=True, exist_ok=True)
    qmp = directory / "qmp"
    qmp.unlink(missing_ok=True)
    (directory / "console").write_bytes(b"")
    command = [
        "qemu-system-x86_64",
        *("-machine", "q35", "-cpu", "max", "-m", str(memory_mib), "-nodefaults"),
        *("-display", "none", "-no-reboot", "-serial", f"file:{directory / 'console'}"),
        *("-qmp", f"unix:{qmp},server=on,wait=off"),
        *("-device", "virtio-rng-pci"),
    ]
    if kernel is not None:
        command += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", command_line]
    command += options
    if network is not None:
        command += ["-netdev", f"{network},id=net"]
        command += ["-device", f"virtio-net-pci,netdev=net,mac={MAC}"]
    for number, drive in enumerate(drives):
        name = f"drive{number}"
        command += [part.format(name=name) for part in drive.node] or [
            "-blockdev",
            f"driver=raw,node-name={name},file.driver=file,file.filename={drive.path}",
        ]
        model = "nvme" if drive.nvme else "virtio-blk-pci"
        size = drive.sector_bytes
        sectors = f"logical_block_size={size},physical_block_size={size}"
        command += ["-device", f"{model},drive={name},serial={drive.serial},{sectors}"]
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            dying_with_parent([*wrapper, *command]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        began = time.monotonic()
        machine = Running(process, directory)
        try:
            yield machine
        finally:
            machine.qmp.close()
            print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
    finally:
        process.kill()
        process.wait()
