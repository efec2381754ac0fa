"""A machine on which holdfast's package is installed; each test that starts one gets a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.vm.image import CACHE, base_image, built_package, make_file_system, overlay
from tests.vm.machine import Disks, Machine, running
from tests.vm.service import FILE_MIB, PATIENCE, first_pass, started_at

DATA_BYTES = 1 << 30

_SERVICE = """\
[Unit]
Description=Stand-in for a datastore
RequiresMountsFor=/mnt/data
[Service]
ExecStart=/usr/bin/python3 /mnt/seed/datastore.py /mnt/data/db/file /run/datastore.json
[Install]
WantedBy=multi-user.target
"""
_DATASTORE = f"""
set -e
useradd --system datastore
install -d -m 0700 -o datastore /mnt/data/db
dd if=/dev/urandom of=/mnt/data/db/file bs=1M count={FILE_MIB} status=none
chown datastore /mnt/data/db/file
cat >/etc/systemd/system/datastore.service <<'END'
{_SERVICE}END
systemctl daemon-reload
systemctl enable --quiet datastore.service
sync
"""
_SETTINGS = """\
[pagecache]
reserve_bytes = "64 MiB"  # of 1 GiB
[data]
free_space_floor = "64 MiB"  # of a small volume
"""
_PACKAGE = f"""
set -e
install -d /etc/systemd/system/holdfast.service.d
cat >/etc/systemd/system/holdfast.service.d/emulated.conf <<'END'
{PATIENCE}END
DEBIAN_FRONTEND=noninteractive dpkg -i /mnt/seed/holdfast.deb
cat >/etc/holdfast/holdfast.toml <<'END'
{_SETTINGS}END
echo WARM_UNTIL=100% >/etc/default/holdfast
systemctl restart holdfast
install -D -m 0644 /usr/share/holdfast/datastore.conf \
    /etc/systemd/system/datastore.service.d/50-holdfast.conf
systemctl daemon-reload
systemctl restart datastore
sync
"""


@dataclass(frozen=True)
class Installed:
    """A machine's disks, and how the machine was before the package was there."""

    disks: Disks
    control: Mapping[str, Any]
    """What the datastore's first pass after a boot cost."""
    control_start: float
    """When the datastore started, in seconds since that boot."""


Start = Callable[..., AbstractContextManager[Machine]]


TEST_SECONDS = 3600
"""For one test, should nothing else end it: what waits in it has deadlines of its own."""


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Give these tests the time they need; skip them, with the reason, where they cannot run."""
    lacking = _lacking()
    if lacking and os.environ.get("CI"):
        pytest.exit(f"{lacking}, and there must be no run of these tests without it", 2)
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))
            if lacking:
                item.add_marker(pytest.mark.skip(f"{lacking}: run these tests with `make test-vm`"))


def _lacking() -> str | None:
    """Report what is missing, at once rather than after a minute."""
    for program in ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "mkfs.xfs"):
        if shutil.which(program) is None:
            return f"{program} is missing"
    return "there is no package to install" if built_package() is None else None


@pytest.fixture(scope="session")
def installed() -> Installed:
    """Install the package in a fresh Debian; the disks are not to be written.

    The datastore is there first and is booted once without holdfast, which is the control. The
    package then finds it running; what it holds in memory is recorded as the machine goes down.
    """
    base, directory, package = base_image(), CACHE / "installed", built_package()
    assert package is not None
    shutil.rmtree(directory, ignore_errors=True)
    seed = directory / "seed"
    seed.mkdir(parents=True)
    shutil.copy(package, seed / "holdfast.deb")
    shutil.copy(Path(__file__).with_name("datastore.py"), seed / "datastore.py")
    make_file_system(directory / "seed.img", 64 << 20, seed)
    with (directory / "data.img").open("wb") as file:
        file.truncate(DATA_BYTES)
    subprocess.run(["mkfs.xfs", "-q", directory / "data.img"], check=True)
    disks = Disks(
        kernel=base.kernel,
        initrd=base.initrd,
        root=overlay(base.root, directory / "root.qcow2"),
        data=directory / "data.img",
        seed=directory / "seed.img",
    )
    with running(disks, CACHE / "run") as machine:
        machine.guest.sh(_DATASTORE)
        machine.reboot()
        control = first_pass(machine.guest)
        control_start = started_at(machine.guest)
        machine.guest.sh(_PACKAGE, seconds=900)
        machine.power_off()
    return Installed(disks, control, control_start)


class Copy:
    """A copy of the machine, which continues with the same disks each time it is started."""

    def __init__(self, installed: Installed, directory: Path) -> None:
        self.control = installed
        self._directory = directory
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        original = installed.disks
        assert original.data is not None
        self._data = directory / "data.img"
        subprocess.run(["cp", "--sparse=always", original.data, self._data], check=True)
        self._disks = replace(
            original, data=self._data, root=overlay(original.root, directory / "root.qcow2")
        )

    @contextmanager
    def running(self, *, data_disk: bool = True, options: Sequence[str] = ()) -> Iterator[Machine]:
        """Start it; it is gone at the end."""
        disks = self._disks if data_disk else replace(self._disks, data=None)
        with running(disks, CACHE / "run", options) as machine:
            yield machine

    def remove(self) -> None:
        """Remove its disks."""
        shutil.rmtree(self._directory)


@pytest.fixture
def start(installed: Installed) -> Iterator[Start]:
    """Give a function that starts a copy of the machine: `with start() as machine`.

    Copies that one test starts after another continue with the same disks.
    """
    copy = Copy(installed, CACHE / "copy")
    yield copy.running
    copy.remove()


@pytest.fixture(scope="module")
def shared(installed: Installed) -> Iterator[Machine]:
    """Give a running copy of the machine for tests that leave it as they found it.

    It was booted with the datastore's dump there.
    """
    copy = Copy(installed, CACHE / "shared")
    with copy.running() as machine:
        yield machine
    copy.remove()
