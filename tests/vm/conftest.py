"""A machine on which holdfast's package is installed; each test that starts one gets a copy."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.vm.image import CACHE, CHECKOUT, base_image, make_file_system, overlay
from tests.vm.machine import Disks, Machine, running

DATA_BYTES = 1 << 30
FILE_MIB = 64

_SERVICE = """\
[Unit]
Description=Stand-in for a datastore
RequiresMountsFor=/mnt/data
[Service]
ExecStart=/usr/bin/python3 /mnt/seed/datastore.py /mnt/data/db/file /run/datastore.json
[Install]
WantedBy=multi-user.target
"""
_SETTINGS = """\
[pagecache]
reserve_bytes = "64 MiB"  # of 1 GiB
"""
_PREPARE = f"""
set -e
DEBIAN_FRONTEND=noninteractive dpkg -i /mnt/seed/holdfast.deb
cat >/etc/holdfast/holdfast.toml <<'END'
{_SETTINGS}END
echo WARM_UNTIL=100% >/etc/default/holdfast
useradd --system datastore
install -d -m 0700 -o datastore /mnt/data/db
dd if=/dev/urandom of=/mnt/data/db/file bs=1M count={FILE_MIB} status=none
chown datastore /mnt/data/db/file
cat >/etc/systemd/system/datastore.service <<'END'
{_SERVICE}END
install -D -m 0644 /usr/share/holdfast/datastore.conf \
    /etc/systemd/system/datastore.service.d/50-holdfast.conf
systemctl daemon-reload
systemctl enable --quiet datastore.service
systemctl stop holdfast
rm -rf /mnt/data/.holdfast
sync
"""

Start = Callable[..., AbstractContextManager[Machine]]


def pytest_configure() -> None:
    """Say at once what is missing, rather than after a minute."""
    for program in ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "mkfs.xfs"):
        if shutil.which(program) is None:
            pytest.exit(f"{program} is missing: run these tests with `make test-vm`", 2)
    if not _package():
        pytest.exit("there is no package to install: run these tests with `make test-vm`", 2)


def _package() -> Path | None:
    return next(iter(sorted((CHECKOUT / "dist").glob("holdfast_*_amd64.deb"))), None)


@pytest.fixture(scope="session")
def installed() -> Disks:
    """Install the package in a fresh Debian, and answer its disks, which are not to be written."""
    base, directory, package = base_image(), CACHE / "installed", _package()
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
        machine.guest.sh(_PREPARE, seconds=600)
        machine.power_off()
    return disks


@pytest.fixture
def start(installed: Disks) -> Iterator[Start]:
    """Give a function that starts a copy of the machine: `with start() as machine`.

    Copies that one test starts after another go on with the same disks.
    """
    directory = CACHE / "copy"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    assert installed.data is not None
    data = directory / "data.img"
    subprocess.run(["cp", "--sparse=always", installed.data, data], check=True)
    root = overlay(installed.root, directory / "root.qcow2")

    @contextmanager
    def begin(*, data_disk: bool = True, options: Sequence[str] = ()) -> Iterator[Machine]:
        disks = Disks(
            kernel=installed.kernel,
            initrd=installed.initrd,
            root=root,
            data=data if data_disk else None,
            seed=installed.seed,
        )
        with running(disks, CACHE / "run", options) as machine:
            yield machine

    yield begin
    shutil.rmtree(directory)
