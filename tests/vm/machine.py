"""A virtual machine: Debian with systemd, its root on a virtio disk, its data on an NVMe disk."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon.harness import dying_with_parent
from tests.vm import pace
from tests.vm.diagnosis import diagnosis
from tests.vm.guest import Guest, GuestError

BOOT_SECONDS = 600.0
_STOP_SECONDS = 300.0


@dataclass(frozen=True)
class Disks:
    """What a machine is started with."""

    kernel: Path
    initrd: Path
    root: Path
    """qcow2; written to."""
    data: Path | None
    """Raw; written to. None: the disk is missing."""
    seed: Path
    """Raw, read-only: a file system with what the test wants to hand over."""


class Machine:
    """A running machine."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self._directory = directory
        self.guest = Guest(directory / "agent")
        self.boot_id = ""

    @property
    def console(self) -> str:
        """What the machine printed on its serial console so far."""
        return (self._directory / "console").read_text(errors="replace")

    def booted(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until a boot that is not the last one seen is over: systemd has nothing to do."""
        started = time.monotonic()
        deadline = started + pace.patience(seconds)
        while True:
            try:
                self.guest.wait(deadline - time.monotonic())
                boot_id = self.guest.run("/bin/cat", "/proc/sys/kernel/random/boot_id").strip()
                if boot_id != self.boot_id:
                    self.guest.call("/bin/systemctl", "is-system-running", "--wait")
                    self.boot_id = boot_id
                    pace.booted(time.monotonic() - started)
                    return
            except (GuestError, OSError) as error:
                self.guest.close()
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise GuestError(f"{error}\n{self.console[-4000:]}") from error
            time.sleep(0.2)

    def reboot(self) -> None:
        """Reboot in order, and wait until the machine is up again."""
        self.guest.tell("guest-shutdown", {"mode": "reboot"})
        self.booted()

    def power_off(self) -> None:
        """Shut down in order, and wait until the machine is off."""
        self.guest.tell("guest-shutdown", {"mode": "powerdown"})
        self._process.wait(pace.patience(_STOP_SECONDS))


@contextmanager
def running(disks: Disks, directory: Path, options: Sequence[str] = ()) -> Iterator[Machine]:
    """Start a machine and wait for its boot; it is gone at the end."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    drives = [
        ("root", disks.root, "qcow2", "virtio-blk-pci,serial=root"),
        ("seed", disks.seed, "raw", "virtio-blk-pci,serial=seed"),
    ]
    if disks.data is not None:
        drives.append(("data", disks.data, "raw", "nvme,serial=data"))
    command = [
        "qemu-system-x86_64",
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", "2", "-m", "1024", "-nodefaults", "-display", "none"),
        *("-serial", f"file:{directory / 'console'}"),
        *("-kernel", str(disks.kernel), "-initrd", str(disks.initrd)),
        *("-append", f"root=/dev/disk/by-id/virtio-root rw console=ttyS0 panic=10 {pace.TIMER}"),
        *("-chardev", f"socket,id=agent,server=on,wait=off,path={directory / 'agent'}"),
        *("-device", "virtio-serial", "-device"),
        "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        *("-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net"),
        *("-device", "virtio-rng-pci"),
        *options,
    ]
    for name, path, kind, device in drives:
        read_only = ",read-only=on" if name == "seed" else ""
        command += [
            "-drive",
            f"file={path},format={kind},if=none,id={name},cache=unsafe{read_only}",
        ]
        command += ["-device", f"{device},drive={name}"]
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            dying_with_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    machine = Machine(process, directory)
    try:
        machine.booted()
        yield machine
    except BaseException:
        print(f"failed; what systemd says:\n{diagnosis(machine.guest)}", flush=True)
        raise
    finally:
        machine.guest.close()
        process.kill()
        process.wait()
