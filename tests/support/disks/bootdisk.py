"""A disk of a test's own that boots with GRUB on BIOS, and has a root file system of a machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.arming import Boot
from holdfast.privileged.boot.models import ArmRequest, NetworkImage
from holdfast.privileged.boot.policy import Policy
from tests.support.machine.loops import MIB, attach
from tests.support.machine.mounts import mounted
from tests.support.waiting import until

KERNEL = "6.0.0-test"
STATE = "/var/lib/holdfast"
POLICY = Policy(roots=["/mnt/data"], state_dir=STATE)
"""What root allows: no signature is needed, and no file goes to the imager."""
NONCE = "0123456789abcdef" * 2
DESCRIPTOR = {
    "format": "holdfast-image",
    "version": 1,
    "name": 'it\'s $new; "x"',
    "image_version": "1",
    "size_bytes": 64 << 20,
    "boot_modes": ["bios"],
    "partition_table": {"kind": "gpt", "partitions": [{"number": 1, "file_system": "ext4"}]},
    "root_partition": 1,
}
_DEFAULTS = {"GRUB_TERMINAL": "console", "GRUB_DEFAULT": "0", "pkgdatadir": "/usr/share/grub"}
# grub-install asks udev where a partition is in sysfs, and udev may not run, or not know it.
_UDEVADM = """#!/bin/sh
path=$(readlink -f "/sys/class/block/${5##*/}") && echo "${path#/sys}"
"""
_MENU = """
menuentry 'The old system' --id old {
  echo old
}
"""


def run(*command: str | Path, **options: str) -> str:
    """Run a command that must succeed; answer its output."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | options
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class BootDisk:
    """A disk with a partition for `/`, and another for `/boot` if there is to be one."""

    machine: MachineFiles
    image: Path
    """The file that the disk is: what GRUB would see."""
    device: str
    boot_number: int
    boot_on_root: bool
    policy: Policy = POLICY
    firmware: bool = False
    """It booted with UEFI: without a GPT there is no lifeboat for it."""

    @property
    def root(self) -> Path:
        return self.machine.root

    @property
    def boot(self) -> Path:
        return self.root / "boot"

    @property
    def descriptor(self) -> Path:
        """Where the staged descriptor is."""
        return self.root / STATE.lstrip("/") / "descriptor.json"

    @property
    def grub(self) -> Path:
        return self.boot / "grub"

    @property
    def arming(self) -> Boot:
        """What arms it."""
        return Boot(self.machine, self.image.with_name("imager"), lambda: self.policy)

    def allowing(self, **changes: Any) -> Boot:
        """Return what arms it where root's settings are others."""
        return replace(self.arming, policy=lambda: replace(self.policy, **changes))

    def with_firmware(self, **variables: bytes) -> BootDisk:
        """Return the same disk, of a machine that booted with UEFI and has these variables.

        Names have their vendor's GUID with underscores, as in `SecureBoot_8be4df61_…`.
        """
        sys = self.image.with_name("sys-uefi")
        if not sys.exists():
            sys.mkdir()
            for entry in Path("/sys").iterdir():
                if entry.name != "firmware":
                    (sys / entry.name).symlink_to(entry)
        where = sys / "firmware/efi/efivars"
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir(parents=True)
        for name, value in variables.items():
            (where / name.replace("_", "-")).write_bytes(b"\7\0\0\0" + value)
        return replace(self, machine=replace(self.machine, sys=sys), firmware=True)

    def request(self, **changes: object) -> ArmRequest:
        """Stage a small image's descriptor and make a request to arm for it."""
        descriptor = self.descriptor
        if not descriptor.exists():
            descriptor.parent.mkdir(parents=True, exist_ok=True)
            descriptor.write_text(json.dumps(DESCRIPTOR))
        fields: dict[str, object] = {
            "nonce": NONCE,
            "operation": "01K0",
            "descriptor_path": f"{STATE}/descriptor.json",
            "descriptor_sha256": hashlib.sha256(descriptor.read_bytes()).hexdigest(),
            "source": NetworkImage(url="http://10.0.2.2/disk.raw"),
            "identity": ["ssh_host_keys", "machine_id", "hostname", "holdfast"],
        }
        if self.firmware:
            fields["allow_unprotected"] = True
        return ArmRequest.model_validate(fields | changes)

    def state(self) -> dict[str, object]:
        """Return all of /boot that an arming could change: bytes, owners, modes and times."""
        found: dict[str, object] = {}
        for path in sorted(self.boot.rglob("*")):
            if path.is_file() and path.suffix not in (".mod", ".mo", ".pf2"):
                status = path.stat()
                found[str(path)] = (
                    hashlib.sha256(path.read_bytes()).hexdigest(),
                    status.st_mode,
                    status.st_uid,
                    status.st_gid,
                    status.st_mtime_ns,
                )
        return found

    def seen_by_grub(self, path: str) -> bytes | None:
        """Read a file as GRUB's own code does from the disk; None if it does not."""
        inner = path if self.boot_on_root else path.removeprefix("/boot")
        done = subprocess.run(
            ["grub-fstest", self.image, "cat", f"(loop0,msdos{self.boot_number}){inner}"],
            capture_output=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 and not done.stderr else None


def ubuntu_config(terminal: str = "console") -> str:
    """Make a grub.cfg as Ubuntu's, which remembers boots that failed and then waits in its menu.

    Debian's own script makes it with `quick_boot`, which is the difference.
    """
    header = Path("/etc/grub.d/00_header").read_text()
    assert 'quick_boot="0"' in header
    defaults = _DEFAULTS | {"GRUB_RECORDFAIL_TIMEOUT": "-1"}
    defaults |= {"GRUB_TERMINAL_INPUT": terminal, "GRUB_TERMINAL_OUTPUT": terminal}
    if terminal == "serial":
        defaults["GRUB_SERIAL_COMMAND"] = "serial --unit=0 --speed=115200"
    done = subprocess.run(
        ["sh", "-s"],
        input=header.replace('quick_boot="0"', 'quick_boot="1"'),
        env=os.environ | defaults,
        capture_output=True,
        text=True,
        check=True,
    )
    menu = "menuentry 'The old system' --id old {\n  recordfail\n  echo it is old\n}\n"
    return done.stdout + menu + run("sh", "/etc/grub.d/41_custom", **defaults)


def _partition(disk: str, image: Path, sizes: list[int]) -> list[str]:
    table = "label: dos\n" + "".join(f"size={size}MiB, type=83\n" for size in sizes)
    subprocess.run(
        ["sfdisk", "--quiet", "--no-reread", disk],
        input=table,
        text=True,
        capture_output=True,
        check=True,
    )
    # Kernels without partition tables need the partitions' ranges.
    if not list(Path("/sys/class/block", Path(disk).name).glob("*/partition")):
        run("partx", "--add", disk)
    nodes = [f"{disk}p{number}" for number in range(1, len(sizes) + 1)]
    for node in nodes:
        until(Path(node).exists, what=node)
    assert image.exists()
    return nodes


def _forget(disk: str) -> None:
    """Have the kernel forget the partitions, once nobody has them mounted."""
    command = ["partx", "--delete", disk]
    until(
        lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0,
        what=f"the end of the partitions of {disk}",
    )


def _tools(directory: Path) -> Path:
    tools = directory / "tools"
    tools.mkdir()
    (tools / "udevadm").write_text(_UDEVADM)
    (tools / "udevadm").chmod(0o755)
    return tools


def _make(kind: str, node: str, options: list[str]) -> None:
    force = ["-F", "-q"] if kind.startswith("ext") else ["-f", "-q"]
    run(f"mkfs.{kind}", *force, *options, node)


@contextmanager
def boot_disk(
    directory: Path,
    kind: str = "ext4",
    *,
    separate: bool = False,
    boot_mib: int = 400,
    options: tuple[str, ...] = (),
) -> Iterator[BootDisk]:
    """Make one; `options` are those of mkfs for the file system with /boot.

    `boot_mib` is the size of a separate one.
    """
    if os.geteuid() != 0:
        pytest.skip("loop devices and mounts are root's")
    image, root = directory / "disk.img", directory / "root"
    with ExitStack() as stack:
        loop = attach(image, 768 * MIB)
        stack.callback(loop.detach)
        sizes = [320, boot_mib] if separate else [720]
        nodes = _partition(loop.device, image, sizes)
        stack.callback(_forget, loop.device)
        boot_node = nodes[-1]
        _make("ext4" if separate else kind, nodes[0], [] if separate else list(options))
        if separate:
            _make(kind, boot_node, list(options))
        stack.enter_context(mounted(root, nodes[0]))
        (root / "boot").mkdir()
        if separate:
            stack.enter_context(mounted(root / "boot", boot_node))
        _fill(root, directory)
        install = ("grub-install", "--target=i386-pc", f"--boot-directory={root / 'boot'}")
        run(*install, loop.device, PATH=f"{_tools(directory)}:{os.environ['PATH']}")
        config = run("sh", "/etc/grub.d/00_header", **_DEFAULTS)
        config += _MENU + run("sh", "/etc/grub.d/41_custom", **_DEFAULTS)
        (root / "boot/grub/grub.cfg").write_text(config)
        (root / "boot/grub/grub.cfg").chmod(0o444)
        run("grub-editenv", root / "boot/grub/grubenv", "create")
        run("sync")
        machine = MachineFiles(
            root=root,
            proc=directory / "proc",
            kernel=KERNEL,
            loop_disks=True,
        )
        yield BootDisk(machine, image, loop.device, len(nodes), not separate)


def _fill(root: Path, directory: Path) -> None:
    """Put the files of a machine there: its kernel, its identity, its view of /proc."""
    (root / f"boot/vmlinuz-{KERNEL}").write_bytes(os.urandom(3 * MIB))
    for path, content, mode in (
        ("etc/ssh/ssh_host_ed25519_key", "private", 0o600),
        ("etc/ssh/ssh_host_ed25519_key.pub", "public", 0o644),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444),
        ("etc/hostname", "node-7\n", 0o644),
        ("etc/resolv.conf", "nameserver 127.0.0.53\n", 0o644),
        ("run/systemd/resolve/resolv.conf", "nameserver 10.0.2.3\n", 0o644),
        ("etc/holdfast/holdfast.toml", "roots = ['/mnt/data']\n", 0o640),
        ("etc/holdfast/image-id", "old\n", 0o644),
        ("etc/holdfast/profiles.d/mine.toml", "x = 1\n", 0o644),
    ):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)
    modules = root / "lib/modules" / KERNEL
    modules.mkdir(parents=True)
    builtin = ("ext4", "xfs", "md-mod", "raid0", "loop", "virtio_blk", "virtio_net", "btrfs")
    (modules / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in builtin))
    for name in ("modules.order", "modules.builtin.modinfo"):
        (modules / name).write_bytes(b"")
    run("depmod", "--basedir", root, KERNEL)
    proc = directory / "proc"
    proc.mkdir()
    for name in ("self", "swaps", "sys"):
        (proc / name).symlink_to(f"/proc/{name}")
    (proc / "cmdline").write_text(
        'BOOT_IMAGE=/boot/vmlinuz root=UUID=0 ro quiet console=ttyS0 a.b="x y" '
        "systemd.unit=x -- single\n"
    )
    (directory / "imager").write_bytes(os.urandom(MIB))
