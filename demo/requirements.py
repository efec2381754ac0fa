"""What `make demo-machine` needs; imports nothing that has to be installed."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

_COMMANDS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "sfdisk": "fdisk",
    "partx": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "zstd": "zstd",
    "openssl": "openssl",
    "dpkg-deb": "dpkg-dev",
}
"""Commands, and the Debian packages that have them."""
_FREE_BYTES = 8 << 30
_CHECKOUT = Path(__file__).resolve().parents[1]


def lacking() -> str | None:
    """Return in one line what is missing and what to do about it; None if all is there."""
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    if platform.machine() != "x86_64":
        return f"the machine that is shown is an x86-64 one, and this is {platform.machine()}"
    missing = [name for name in _COMMANDS if shutil.which(name) is None]
    if missing:
        packages = " ".join(sorted({_COMMANDS[name] for name in missing}))
        return f"{', '.join(missing)} missing; on Debian: apt-get install {packages}"
    if os.geteuid() != 0:
        return "it makes disks with loop devices, which takes root; run it with sudo"
    free = shutil.disk_usage(_CHECKOUT).free
    if free < _FREE_BYTES:
        return f"{_CHECKOUT} has {free >> 30} GiB free, and its disks need {_FREE_BYTES >> 30} GiB"
    return None


if __name__ == "__main__":
    reason = lacking()
    if reason is not None:
        print(f"make demo-machine: {reason}", file=sys.stderr)
    sys.exit(0 if reason is None else 1)
