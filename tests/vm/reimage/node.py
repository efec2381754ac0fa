"""A machine that boots from its own disk, as one in a data centre does, seen over HTTPS only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from tests.support.daemon.harness import dying_with_parent
from tests.support.waiting import until
from tests.vm import pace
from tests.vm.guest import Guest, GuestError
from tests.vm.image import overlay
from tests.vm.reimage.controller import Controller
from tests.vm.reimage.firmware import Firmware
from tests.vm.reimage.images import Systems
from tests.vm.reimage.qmp import Qmp

BOOT_SECONDS = 480.0
MEMORY_MIB = 1280
DATA_BYTES = 1 << 30
"""Of each of the two data disks."""
ROOT_SERIAL = "root-0001"


@dataclass(frozen=True)
class Disks:
    """What a machine is started with; all of it is written to."""

    root: Path
    """qcow2."""
    data: tuple[Path, ...]
    """Raw: their content can be inspected from outside."""
    root_serial: str = ROOT_SERIAL
    firmware: Firmware | None = None
    """Without it, it is a BIOS. In disks that are written to, its variables are a copy."""

    def copy(self, directory: Path) -> Disks:
        """Make disks that begin as these. Neither may be in use."""
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        data = tuple(directory / disk.name for disk in self.data)
        for source, target in zip(self.data, data, strict=True):
            subprocess.run(["cp", "--sparse=always", source, target], check=True)
        firmware = self.firmware
        if firmware is not None:
            variables = shutil.copyfile(firmware.variables, directory / "variables")
            firmware = replace(firmware, variables=variables)
        root = overlay(self.root, directory / "root.qcow2")
        return replace(self, root=root, data=data, firmware=firmware)

    def data_digests(self) -> list[str]:
        """Digest every byte of the data disks."""
        found = []
        for path in self.data:
            digest = xxhash.xxh3_128()
            with path.open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
            found.append(digest.hexdigest())
        return found


@dataclass(frozen=True)
class Ports:
    """Where a machine's own ports are reached, on the host's loopback."""

    api: int
    ssh: int


class Node:
    """A running machine: QEMU's process, its monitor, and the API that the machine serves."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        directory: Path,
        disks: Disks,
        control: Controller,
        ports: Ports,
    ) -> None:
        self._process = process
        self._directory = directory
        self.disks = disks
        self.control = control
        self.ports = ports
        self.qmp = Qmp(directory / "qmp")
        self._printed = 0
        self._boot_began: float | None = time.monotonic()
        self.guest = Guest(directory / "agent")
        """For looking inside; a controller has no such thing."""

    @property
    def console(self) -> str:
        """What the machine printed on its serial console so far."""
        return (self._directory / "console").read_text(errors="replace")

    def on_console(self, text: str, seconds: float, *, after: int = 0) -> None:
        """Wait until something is printed on the console, from character `after` on."""
        until(
            lambda: text in self.console[after:] or self._ended(),
            seconds=pace.patience(seconds),
            what=f"{text!r} on the console",
            interval=0.1,
        )
        assert text in self.console[after:], self.console[-4000:]

    def settled(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until systemd has nothing more to do, and everything it started runs."""
        try:
            self.guest.close()
            self.guest.wait(seconds)
            self.guest.call("/bin/systemctl", "is-system-running", "--wait", seconds=seconds)
            if self._boot_began is not None:
                pace.booted(time.monotonic() - self._boot_began)
                self._boot_began = None
        except (GuestError, OSError) as error:
            raise GuestError(f"{error}\n{self.console[-4000:]}") from error

    def hold_at_resets(self) -> None:
        """From now on, stop the machine where it would begin a boot: see `held` and `go_on`."""
        self.qmp.ask("set_action", reboot="shutdown", shutdown="pause")

    def held(self, seconds: float) -> None:
        """Wait until the machine has reset itself and is stopped before its next boot."""
        deadline = time.monotonic() + pace.patience(seconds)
        while True:
            event = self.qmp.event("SHUTDOWN", deadline - time.monotonic())
            assert event["data"]["reason"] == "guest-reset", event
            if len(self.console) > self._printed:
                return
            # The firmware resets the machine once more before it boots anything.
            self._begin(hold=True)

    def go_on(self, *, hold: bool = True) -> None:
        """Let a machine that is held boot."""
        self._printed = len(self.console)
        self._begin(hold=hold)

    def _begin(self, *, hold: bool) -> None:
        # A kernel tries several ways to reset a machine; each that comes before it stops is
        # reported.
        self.qmp.forget("SHUTDOWN")
        self.qmp.ask("set_action", reboot="reset")
        self.qmp.ask("system_reset")
        if hold:
            self.hold_at_resets()
        else:
            self.qmp.ask("set_action", shutdown="poweroff")
        self.qmp.ask("cont")

    def power_off(self, seconds: float = 120.0) -> None:
        """Shut down in order, as at the press of the button, and wait until it is off."""
        self.qmp.ask("system_powerdown")
        self._process.wait(pace.patience(seconds))

    def kill(self) -> None:
        """End QEMU at once."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End QEMU, and let go of everything."""
        self.guest.close()
        self.control.close()
        self.qmp.close()
        self.kill()

    def _ended(self) -> bool:
        return self._process.poll() is not None


def new_disks(systems: Systems, directory: Path) -> Disks:
    """Make the disks of a machine with the old system, and data disks with nothing on them."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    data = (directory / "data0.raw", directory / "data1.raw")
    for path in data:
        with path.open("wb") as file:
            file.truncate(DATA_BYTES)
    return Disks(overlay(systems.old_disk, directory / "root.qcow2"), data)


def _free_ports() -> Ports:
    with socket.socket() as api, socket.socket() as ssh:
        for probe in (api, ssh):
            probe.bind(("127.0.0.1", 0))
        return Ports(api.getsockname()[1], ssh.getsockname()[1])


@contextmanager
def running(
    systems: Systems,
    disks: Disks,
    directory: Path,
    root_options: Sequence[str] = (),
    *,
    processors: int = 2,
) -> Iterator[Node]:
    """Switch a machine on; it is gone at the end. Does not wait for its boot.

    `root_options` replace the drive of the root disk, whose id is `root`.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    ports = _free_ports()
    forwarded = ",".join(
        f"hostfwd=tcp:127.0.0.1:{port}-:{inside}"
        for port, inside in ((ports.api, 9918), (ports.ssh, 22))
    )
    root = root_options or ("-drive", f"file={disks.root},format=qcow2,if=none,id=root")
    machine = "q35" if disks.firmware is None else disks.firmware.machine
    command = [
        "qemu-system-x86_64",
        *("-machine", machine, "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", str(processors), "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none"),
        *("-serial", f"file:{directory / 'console'}"),
        *("-qmp", f"unix:{directory / 'qmp'},server=on,wait=off"),
        *("-chardev", f"socket,id=agent,server=on,wait=off,path={directory / 'agent'}"),
        *("-device", "virtio-serial", "-device"),
        "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        *("-netdev", f"user,id=net,{forwarded}"),
        *("-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"),
        *root,
        *("-device", f"virtio-blk-pci,drive=root,serial={disks.root_serial},bootindex=0"),
    ]
    if disks.firmware is not None:
        flash = "if=pflash,format=raw"
        command += ["-drive", f"{flash},unit=0,readonly=on,file={disks.firmware.code}"]
        command += ["-drive", f"{flash},unit=1,file={disks.firmware.variables}"]
        command += disks.firmware.options
    for number, path in enumerate(disks.data):
        command += ["-drive", f"file={path},format=raw,if=none,id=data{number},discard=unmap"]
        command += ["-device", f"nvme,drive=data{number},serial=data-000{number}"]
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            dying_with_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        control = Controller(f"https://127.0.0.1:{ports.api}", systems.authority, systems.token)
        node = Node(process, directory, disks, control, ports)
    except BaseException:
        process.kill()
        process.wait()
        raise
    try:
        yield node
    finally:
        node.close()
