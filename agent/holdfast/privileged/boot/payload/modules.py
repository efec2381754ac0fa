"""The kernel modules that the imager needs: drivers of its disks and network, file systems, md."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast import _engine
from holdfast.node.paths.files import read_text
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.writes import Refused

_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_SECONDS = 30.0
_MAX_MODULE = 256 << 20
_PERSONALITIES = {"raid4": "raid456", "raid5": "raid456", "raid6": "raid456"}
_FILE_SYSTEMS = {"ext2": "ext4", "ext3": "ext4"}  # ext4 mounts all of them
_OPTIONAL = ("virtio_rng", "af_packet", "ipv6")


@dataclass(frozen=True)
class Module:
    """A module as it goes into the initramfs."""

    name: str
    content: bytes
    """Unpacked."""


def drivers_of(machine: MachineFiles, entry: Path) -> Sequence[str]:
    """Return the modules that drive a device and everything it hangs on, from the bus down.

    `entry` is its directory or link in sysfs, `class/block/sda` or `class/net/eth0`.
    """
    found: list[str] = []
    queue, seen = [entry.resolve()], set()
    while queue:
        where = queue.pop(0)
        while where.is_relative_to(machine.sys.resolve()) and where not in seen:
            seen.add(where)
            driver = where / "driver/module"
            if driver.exists():
                found.append(driver.resolve().name)
            # A multipath NVMe disk hangs on its subsystem, and that on no bus: controllers do.
            if where.parent.name == "nvme-subsystem":
                queue += [
                    link.resolve() for link in sorted(where.glob("nvme*")) if link.is_symlink()
                ]
            where = where.parent
    return list(dict.fromkeys(reversed(found)))


@dataclass(frozen=True)
class Watchdogs:
    """The hardware watchdogs of a machine."""

    found: bool
    modules: Sequence[str]
    """Names; none of one whose driver is part of the kernel."""


def watchdogs(machine: MachineFiles) -> Watchdogs:
    """Find those that run, and those whose driver no distribution loads by itself.

    softdog is no device's. Raises `Refused`, `OSError`.
    """
    running = sorted((machine.sys / "class/watchdog").glob("watchdog*"))
    running = [device for device in running if (device / "device/driver").exists()]
    names = [name for device in running for name in drivers_of(machine, device)]
    if not running:
        for bus in ("pci", "platform"):
            for device in sorted((machine.sys / "bus" / bus / "devices").glob("*")):
                alias = read_text(device / "modalias")
                if alias and not (device / "driver").exists():
                    names += _watchdog_of(machine, alias)
    return Watchdogs(bool(running or names), list(dict.fromkeys(names)))


def _watchdog_of(machine: MachineFiles, alias: str) -> Sequence[str]:
    """Return the module for a device, if it is a watchdog's driver."""
    paths = _needed(machine, alias, required=False)
    if not paths or "watchdog" not in paths[-1].parts:
        return []
    return [paths[-1].name.partition(".ko")[0]]


def file_system_module(kind: str) -> str:
    """Name the module of a file system."""
    return _FILE_SYSTEMS.get(kind, kind)


def personality_module(level: str) -> str:
    """Name the module of a level of md."""
    return _PERSONALITIES.get(level, level)


def gather(machine: MachineFiles, names: Iterable[str]) -> Sequence[Module]:
    """Read modules and all they need, in the order in which to load them; built-in ones fall out.

    Raises `Refused` for one that is not there, and `OSError`.
    """
    paths: dict[Path, None] = {}
    for name in dict.fromkeys(names):
        paths |= dict.fromkeys(_needed(machine, name, required=True))
    for name in _OPTIONAL:
        paths |= dict.fromkeys(_needed(machine, name, required=False))
    return [Module(_plain_name(path), _unpacked(path)) for path in paths]


def _needed(machine: MachineFiles, name: str, *, required: bool) -> Sequence[Path]:
    program = shutil.which("modprobe", path=_PATH)
    if program is None:
        raise Refused("modprobe is not installed (package kmod), so no modules can be found.")
    common = ["--dirname", str(machine.root), "--set-version", machine.kernel, "--", name]
    found = _shown(program, common, name, required=required)
    if any(line[0] == "install" for line in found):
        # A command of modprobe.d replaces the module. Not asked like this at first: it leaves
        # out what is only a soft dependency, such as the checksums that ext4 asks for.
        found += _shown(program, ["--ignore-install", *common], name, required=required)
    return [Path(line[1]) for line in found if line[0] == "insmod"]


def _shown(program: str, words: Sequence[str], name: str, *, required: bool) -> list[list[str]]:
    """Return the lines of `modprobe --show-depends`, split. Raises `Refused`, `OSError`."""
    kernel = words[words.index("--set-version") + 1]
    done = subprocess.run(  # noqa: S603 - a fixed program, no shell
        [program, "--show-depends", *words],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
    )
    if done.returncode != 0:
        if not required:
            return []
        said = " ".join(done.stderr.split())
        raise Refused(
            f"The kernel module {name} of {kernel} cannot be found, which the imager needs: {said}"
        )
    return [line.split() for line in done.stdout.splitlines() if len(line.split()) > 1]


def _plain_name(path: Path) -> str:
    return path.name.partition(".ko")[0] + ".ko"


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(content)
        case ".gz":
            return gzip.decompress(content)
        case ".zst":
            return _engine.decompress(content, "zstd", _MAX_MODULE)
        case _:
            return content
