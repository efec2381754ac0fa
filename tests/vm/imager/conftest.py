"""The imager alone in a machine: small images, disks made here, and the end judged from outside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.image import CACHE
from tests.vm.imager import data, images, layouts
from tests.vm.imager.arming import IMAGER
from tests.vm.imager.data import Data, Ended
from tests.vm.imager.images import Image
from tests.vm.imager.kernel import Kernel, kernel
from tests.vm.imager.rig import Rig

NewRig = Callable[..., Rig]
MakeData = Callable[..., Data]


@pytest.fixture(scope="session")
def room() -> Iterator[Path]:
    """A directory for this run's disks, which begins empty."""
    assert IMAGER.exists(), "there is no imager to test: run `make imager`"
    directory = CACHE / f"imager-{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def debian() -> Kernel:
    """The kernel and its modules."""
    return kernel()


@pytest.fixture(scope="session")
def old(room: Path) -> Path:
    """The target as it was armed."""
    return images.old_disk(room)


@pytest.fixture(scope="session")
def old_of_4096(room: Path) -> Path:
    """The same on a disk with sectors of 4096 bytes, whose file system has no smaller blocks."""
    directory = room / "old-4096"
    directory.mkdir()
    return images.old_disk(directory, "-b", "4096")


@pytest.fixture(scope="session")
def bare(room: Path) -> Image:
    """An image of which the disk has exactly the bytes afterwards."""
    return images.bare_image(room / "bare")


@pytest.fixture(scope="session")
def thin(room: Path) -> Image:
    """An image that is packed into some KiB."""
    return images.bare_image(room / "thin", noise_bytes=3 << 10)


@pytest.fixture(scope="session")
def system(room: Path) -> Image:
    """An image with the root file system of a small system."""
    return images.system_image(room / "system")


@pytest.fixture(scope="session")
def staged(room: Path, debian: Kernel, bare: Image) -> MakeData:
    """Give a function that makes data disks with an image on them, each only once."""
    made: dict[tuple[str, ...], Data] = {}

    def make(
        kind: str = "ext4", level: str = "", ended: Ended = "in_order", holding: Image = bare
    ) -> Data:
        how = (kind, level, ended, holding.raw.stem)
        if how not in made:
            directory = room / "-".join(part for part in how if part)
            made[how] = data.make(debian, directory, holding, kind, level=level, ended=ended)
        return made[how]

    return make


@pytest.fixture
def rig(debian: Kernel, old: Path, bare: Image, room: Path) -> Iterator[NewRig]:
    """Give a function that makes an armed machine of this test's own, with an image."""
    made: list[Rig] = []

    def make(image: Image = bare) -> Rig:
        directory = room / f"rig{len(made)}"
        directory.mkdir()
        made.append(Rig(debian, old, image, directory))
        return made[-1]

    yield make
    for machine in made:
        machine.remove()


@pytest.fixture(scope="session")
def tree(room: Path) -> Path:
    """Give what is in every system."""
    return layouts.debian_tree(room)
