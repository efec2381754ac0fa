"""Makes the disks of a virtual machine: Debian from its archive, once, kept below target/vm."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / "target" / "vm"

SUITE = "bookworm"
PACKAGES = (
    "dbus",
    "e2fsprogs",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "libudev1",
    "linux-image-cloud-amd64",
    "memcached",
    "procps",
    "python3",
    "qemu-guest-agent",
    "systemd",
    "systemd-sysv",
    "udev",
    "xfsprogs",
)
_ROOT_BYTES = 3 << 30

# The machine's own: an fstab that lets it boot without its data disk, and a log that stays.
_CUSTOMIZE = r"""
set -e
cd "$1"
echo node >etc/hostname
cat >etc/fstab <<'END'
/dev/disk/by-id/virtio-root / ext4 defaults 0 1
/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_data /mnt/data xfs nofail,x-systemd.device-timeout=20s 0 0
/dev/disk/by-id/virtio-seed /mnt/seed ext4 ro 0 0
END
mkdir -p mnt/data mnt/seed var/log/journal
# It runs in the test that is about it.
rm etc/systemd/system/multi-user.target.wants/memcached.service
# Nothing here is for people, or for a network.
ln -sf /dev/null etc/systemd/system/getty@.service
ln -sf /dev/null etc/systemd/system/serial-getty@.service
ln -sf /dev/null etc/systemd/system/apt-daily.timer
ln -sf /dev/null etc/systemd/system/apt-daily-upgrade.timer
ln -sf /dev/null etc/systemd/system/e2scrub_reap.service
ln -sf /dev/null etc/systemd/system/systemd-binfmt.service
rm -rf usr/share/doc usr/share/man usr/share/locale var/cache/apt var/lib/apt/lists/*
"""


def built_package() -> Path | None:
    """Where the package lies that `make deb` built."""
    return next(iter(sorted((CHECKOUT / "dist").glob("holdfast_*_amd64.deb"))), None)


@dataclass(frozen=True)
class Base:
    """A bootable Debian."""

    kernel: Path
    initrd: Path
    root: Path
    """Raw, ext4, never written to."""


def base_image(cache: Path = CACHE) -> Base:
    """Make the Debian, or reuse an earlier one from the same description."""
    description = f"{SUITE} {PACKAGES} {_ROOT_BYTES} {_CUSTOMIZE}"
    key = hashlib.sha256(description.encode()).hexdigest()[:12]
    directory = cache / f"{SUITE}-{key}"
    base = Base(directory / "vmlinuz", directory / "initrd", directory / "root.img")
    if not directory.exists():
        partial = cache / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        print(f"installing Debian {SUITE} in {directory}", flush=True)
        _bootstrap(partial)
        partial.rename(directory)
    return base


def _bootstrap(directory: Path) -> None:
    tree = directory / "tree"
    hook = directory / "customize"
    hook.write_text(_CUSTOMIZE)
    _run(
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        f'--customize-hook=sh {hook} "$1"',
        SUITE,
        tree,
    )
    for name in ("vmlinuz", "initrd"):
        newest = max((tree / "boot").glob(f"{name}*"))
        shutil.copyfile(newest, directory / name)
    make_file_system(directory / "root.img", _ROOT_BYTES, tree)
    shutil.rmtree(tree)


def make_file_system(path: Path, size: int, tree: Path | None = None) -> None:
    """Make a sparse file of `size` bytes with an ext4 file system, filled from a directory."""
    with path.open("wb") as file:
        file.truncate(size)
    fill = ["-d", str(tree)] if tree is not None else []
    _run("mkfs.ext4", "-q", "-F", *fill, path)


def overlay(backing: Path, path: Path) -> Path:
    """Make a disk that begins as another one and keeps its own changes."""
    kind = "qcow2" if backing.suffix == ".qcow2" else "raw"
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", kind, path)
    return path


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
