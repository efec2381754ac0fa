"""What `make demo-machine` and `make demo-fleet` need; imports nothing that has to be installed."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_MACHINE = {
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
_FLEET = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "curl": "curl",
}
NAMESPACES = ("unshare", "--net", "--mount", "--propagation", "private")
"""What makes a network and a mount namespace, before the command that is run in them."""
_FREE_BYTES = 8 << 30
_CHECKOUT = Path(__file__).resolve().parents[1]


def lacking() -> str | None:
    """Return in one line what `make demo-machine` lacks and what to do; None if all is there."""
    if platform.machine() != "x86_64":
        return f"the machine that is shown is an x86-64 one, and this is {platform.machine()}"
    missing = _missing(_MACHINE)
    if missing:
        return missing
    if os.geteuid() != 0:
        return "it makes disks with loop devices, which takes root; run it with sudo"
    free = shutil.disk_usage(_CHECKOUT).free
    if free < _FREE_BYTES:
        return f"{_CHECKOUT} has {free >> 30} GiB free, and its disks need {_FREE_BYTES >> 30} GiB"
    return None


def lacking_for_fleet() -> str | None:
    """Return in one line what `make demo-fleet` lacks and what to do; None if all is there."""
    missing = _missing(_FLEET)
    if missing:
        return missing
    if os.geteuid() != 0:
        return "it makes network namespaces, which takes root; run it with sudo"
    made = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        why = made.stderr.strip()
        return f"no network namespaces can be made here ({why}); a container needs --privileged"
    return None


def _missing(commands: Mapping[str, str]) -> str | None:
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    missing = [name for name in commands if shutil.which(name) is None]
    if not missing:
        return None
    packages = " ".join(sorted({commands[name] for name in missing}))
    return f"{', '.join(missing)} missing; on Debian: apt-get install {packages}"


_CHECKS = {"demo-machine": lacking, "demo-fleet": lacking_for_fleet}


def main() -> int:
    """Say in one line what a target of make lacks; return 1 if it lacks anything."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("target", choices=_CHECKS)
    target = parser.parse_args().target
    reason = _CHECKS[target]()
    if reason is not None:
        print(f"make {target}: {reason}", file=sys.stderr)
    return 0 if reason is None else 1


if __name__ == "__main__":
    sys.exit(main())
