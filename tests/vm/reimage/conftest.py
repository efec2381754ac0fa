"""A machine with holdfast, data on two NVMe disks, and images for it; each test gets a copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.vm.diagnosis import diagnosis
from tests.vm.image import CACHE
from tests.vm.reimage.images import Systems
from tests.vm.reimage.installation import installed_disks, made_systems
from tests.vm.reimage.node import Disks, Node, running
from tests.vm.reimage.powercut import logged
from tests.vm.reimage.published import Published, publishing
from tests.vm.reimage.telling import tell

Start = Callable[..., AbstractContextManager[Node]]


@pytest.fixture(scope="session")
def made() -> Systems:
    """The old system's disk and image ABC."""
    return made_systems()


@pytest.fixture(scope="session")
def installed(made: Systems) -> Disks:
    """The disks of a machine that runs the old system, has data, and was shut down in order."""
    return installed_disks(made)


@pytest.fixture
def start(made: Systems, installed: Disks, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Give a function that switches a copy of the machine on: `with start() as node`.

    Started again in the same test, it continues with the same disks, or with `disks`.
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
    tell(f"failed; the console's text is in {kept}; what systemd says:\n{diagnosis(node.guest)}")


@pytest.fixture(scope="session")
def published(made: Systems) -> Iterator[Published]:
    """Image ABC and its descriptor, made by the command, on a server that the machine reaches."""
    with publishing(made.packed) as found:
        yield found
