"""A small machine that makes data disks with the tools of this one, and then loses its power.

Arrays and journals are those of a real kernel so, whether or not this machine's has md.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.privileged.boot.payload import cpio
from tests.vm.imager.kernel import Kernel
from tests.vm.imager.machine import Drive, running

_TOOLS = (
    *("bash", "blkid", "cp", "fsfreeze", "insmod", "mdadm", "mkdir", "mkfs.ext4", "mkfs.xfs"),
    *("mount", "sed", "sync", "umount", "tr"),
)
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_INIT = rf"""#!/usr/bin/bash
export PATH={_PATH}
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in $(</modules/order); do insmod "/modules/$module"; done
echo 4 >/proc/sys/kernel/printk
# Through the kernel's log: a terminal may still have something to print when the machine ends.
say() {{ echo "<1>build: $1" >/dev/kmsg; }}
(set -euo pipefail; . /script) 2>&1 | while read -r line; do say "$line"; done
say "ended with ${{PIPESTATUS[0]}}"
# Without a word to any disk: what was not flushed may be lost.
echo b >/proc/sysrq-trigger
"""


def build(
    kernel: Kernel, disks: Sequence[Path], script: str, directory: Path, image: Path
) -> Mapping[str, str]:
    """Run a bash script with the disks `/dev/vda` and so on, and `/image`.

    Returns its output: lines of `name=value`. Raises `AssertionError` if it failed.
    """
    listed = [
        *(cpio.directory(name) for name in ("dev", "proc", "sys", "mnt", "run", "tmp", "modules")),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", _INIT.encode(), 0o755),
        cpio.file("script", script.encode()),
        cpio.file("image", image),
        cpio.file("modules/order", "\n".join(module.name for module in kernel.modules).encode()),
        *(cpio.file(f"modules/{module.name}", module.content) for module in kernel.modules),
        *programs(_TOOLS),
    ]
    initrd = directory / "builder.img"
    with initrd.open("wb") as file:
        file.writelines(cpio.archive(listed))
    drives = [Drive(disk, f"build-{number}") for number, disk in enumerate(disks)]
    with running(kernel.path, initrd, drives, directory / "build") as machine:
        machine.rebooted()
    initrd.unlink()
    assert "build: ended with 0" in machine.console, machine.console
    return dict(re.findall(r"build: (\w+)=(\S+)\r*$", machine.console, re.MULTILINE))


def programs(names: Sequence[str]) -> Sequence[cpio.Entry]:
    """Return programs of this machine, with the libraries that they need."""
    files: dict[str, Path] = {}
    for name in names:
        found = shutil.which(name, path=_PATH)
        assert found is not None, f"{name} is missing: run these tests with `make test-vm`"
        files[found] = Path(found).resolve()
        done = subprocess.run(("ldd", found), capture_output=True, text=True, check=True)
        for library in re.findall(r"(/\S+) \(0x", done.stdout):
            files[library] = Path(library).resolve()
    directories = sorted({str(p) for name in files for p in Path(name).parents if str(p) != "/"})
    return [
        *(cpio.directory(directory.lstrip("/")) for directory in directories),
        *(cpio.file(name.lstrip("/"), path, 0o755) for name, path in sorted(files.items())),
    ]
