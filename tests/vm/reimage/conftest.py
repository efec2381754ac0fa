"""A machine with holdfast, data on two NVMe disks, and images for it; each test gets a copy."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.vm.image import CACHE, CHECKOUT
from tests.vm.reimage.images import NEW_IMAGE, Systems, systems
from tests.vm.reimage.node import Disks, Node, new_disks, running
from tests.vm.reimage.powercut import logged
from tests.vm.reimage.published import Published
from tests.vm.reimage.server import serving
from tests.vm.reimage.telling import tell

FILE_MIB = 64

# What an operator does once, on the machine: an array, a file system, and data on it.
_INSTALL = f"""
set -e
by_id=/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_data-000
mdadm --create /dev/md/data --run --quiet --homehost=any --name=data --level=0 --raid-devices=2 \
    --uuid=5ca1ab1e:0ddba11a:cafef00d:10c0ffee "$by_id"0 "$by_id"1
mkfs.xfs -q /dev/md/data
mount /mnt/data
install -d -m 0700 -o datastore /mnt/data/db
dd if=/dev/urandom of=/mnt/data/db/file bs=1M count={FILE_MIB} status=none
printf 'a name that is not like others\\n' >"/mnt/data/db/two  spaces"
chown datastore /mnt/data/db/*
systemctl restart holdfast
systemctl start datastore
sync
"""

Start = Callable[..., AbstractContextManager[Node]]


@pytest.fixture(scope="session")
def made() -> Systems:
    """The old system's disk and image ABC."""
    package = next(iter(sorted((CHECKOUT / "dist").glob("holdfast_*_amd64.deb"))), None)
    assert package is not None
    return systems(package)


@pytest.fixture(scope="session")
def installed(made: Systems) -> Disks:
    """The disks of a machine that runs the old system, has data, and was shut down in order."""
    key = hashlib.sha256(_INSTALL.encode()).hexdigest()[:12]
    directory = made.directory / f"installed-{key}"
    data = (directory / "data0.raw", directory / "data1.raw")
    if not directory.exists():
        began = time.monotonic()
        partial = made.directory / "partial"
        with running(made, new_disks(made, partial), CACHE / "run-install") as node:
            node.settled()
            node.guest.sh(_INSTALL, seconds=300)
            node.power_off()
        partial.rename(directory)
        tell(f"installed the machine in {time.monotonic() - began:.0f} s")
    return Disks(directory / "root.qcow2", data)


@pytest.fixture
def start(made: Systems, installed: Disks, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Give a function that switches a copy of the machine on: `with start() as node`.

    Started again in the same test, it goes on with the same disks, or with `disks`.
    """
    directory = CACHE / f"reimage-{os.getpid()}"
    disks = installed.copy(directory / "disks")

    @contextmanager
    def begin(disks: Disks = disks, *, log_writes: bool = False) -> Iterator[Node]:
        root_options = logged(disks.root) if log_writes else ()
        with running(made, disks, directory / "run", root_options) as node:
            try:
                yield node
            except BaseException:
                _keep_console(node, request.node.name)
                raise

    yield begin
    shutil.rmtree(directory)


def _keep_console(node: Node, name: str) -> None:
    """Leave what the machine printed where a person finds it after a failure."""
    kept: Path = CACHE / f"console-{name}.txt"
    kept.write_text(node.console)
    tell(f"failed; the console's text is in {kept}")


@pytest.fixture(scope="session")
def published(made: Systems) -> Iterator[Published]:
    """Image ABC and its descriptor, made by the command, on a server that the machine reaches."""
    descriptor = made.packed.with_name(f"{made.packed.name}.json")
    if not descriptor.exists():
        began = time.monotonic()
        command = (sys.executable, "-m", "holdfast", "image", "describe", str(made.packed))
        more = ("--name", "abc", "--image-version", NEW_IMAGE.rpartition("-")[2])
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        tell(f"described image ABC in {time.monotonic() - began:.0f} s")
    digest = hashlib.sha256(descriptor.read_bytes()).hexdigest()
    with serving(made.directory) as server:
        yield Published(server, descriptor.name, digest)
